"""For a metal the label must be the free energy of the smeared electrons: the one that the forces belong to."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long]


def test_forces_of_aluminium_are_derivatives_of_the_labelled_energy(pw_code, pseudo_family):
    """Wide smearing and a displaced atom: the entropy term is far larger than the tolerance."""
    step = 0.01
    atoms = bulk('Al', cubic=True)
    atoms.positions += np.random.default_rng(1).normal(scale=0.25, size=(4, 3))
    frames = [atoms]
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 0] += sign * step
        frames.append(moved)
    settings = {
        'pseudo_family': pseudo_family,
        'kpoints_distance': 0.8,
        'kpoints_offset': [0.5, 0.5, 0.5],
        'clean_workdir': True,
        'max_iterations': 2,
        'parameters': {
            'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True},
            'SYSTEM': {'ecutwfc': 20.0, 'occupations': 'smearing', 'smearing': 'gaussian', 'degauss': 0.1},
            'ELECTRONS': {'conv_thr': 1e-11},
        },
    }
    options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
    engine_inputs = load_engine('quantumespresso').build(pw_code, [orm.StructureData(ase=atoms)], settings, options)
    configurations = Configurations.from_atoms(frames, reference_cell=bulk('Al', cubic=True).cell.array)
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(configurations),
        engine=orm.Str('quantumespresso'),
        engine_inputs=engine_inputs,
        max_concurrent=orm.Int(2),
        reuse=orm.Bool(False),
    )
    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    force = -(labels.energy[1] - labels.energy[2]) / (2 * step)
    assert abs(force) > 0.1
    assert labels.forces[0, 0] == pytest.approx(force, abs=2e-3)
