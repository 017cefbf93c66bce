"""Labels from real pw.x where a direction does not repeat: a slab of aluminium."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import fcc100

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long]

STEP = 0.01  #: Å
STRAIN = 0.005


def _strained(atoms: Atoms, axis: int, strain: float) -> Atoms:
    """Return ``atoms`` stretched along one axis, the vacuum included where there is any."""
    copy = atoms.copy()
    stretch = np.eye(3)
    stretch[axis, axis] += strain
    copy.set_cell(atoms.cell.array @ stretch, scale_atoms=True)
    return copy


def test_slab(pw_code, pseudo_family, tmp_path):
    """One k-point along the vacuum; forces and stress are derivatives of the energy; MACE is given no stress."""
    # Rectangular: pw.x would complete the shifted mesh of a square lattice to another one than that of a strained cell.
    slab = _strained(fcc100('Al', (1, 1, 3), a=4.0, vacuum=4.0), 0, 0.03)
    slab.positions += np.random.default_rng(2).normal(scale=0.1, size=(3, 3))
    frames = [slab]
    for axis in (0, 2):
        for sign in (1, -1):
            moved = slab.copy()
            moved.positions[0, axis] += sign * STEP
            frames.append(moved)
    frames += [_strained(slab, axis, sign * STRAIN) for axis in (0, 2) for sign in (1, -1)]
    settings = {
        'pseudo_family': pseudo_family,
        'kpoints_distance': 0.45,
        'kpoints_offset': [0.5, 0.5, 0.5],
        'clean_workdir': True,
        'max_iterations': 2,
        'parameters': {
            'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True},
            'SYSTEM': {'ecutwfc': 24.0, 'occupations': 'smearing', 'smearing': 'gaussian', 'degauss': 0.05},
            'ELECTRONS': {'conv_thr': 1e-11, 'mixing_beta': 0.3},
        },
    }
    options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
    engine_inputs = load_engine('quantumespresso').build(pw_code, [orm.StructureData(ase=slab)], settings, options)
    configurations = Configurations.from_atoms(frames, reference_cell=slab.cell.array)
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(configurations),
        engine=orm.Str('quantumespresso'),
        engine_inputs=engine_inputs,
        max_concurrent=orm.Int(2),
        reuse=orm.Bool(False),
    )
    assert node.is_finished_ok, node.exit_message
    assert trace(node).gaps == []
    first = min((job for job in node.called_descendants if isinstance(job, orm.CalcJobNode)), key=lambda job: job.pk)
    assert first.inputs.kpoints.get_kpoints_mesh() == ([5, 5, 1], [0.5, 0.5, 0.0])

    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    energy, forces = labels.energy, labels.forces[:3]
    for axis, row in ((0, 1), (2, 3)):
        force = -(energy[row] - energy[row + 1]) / (2 * STEP)
        assert abs(force) > 0.05, 'the comparison would say nothing'
        assert forces[0, axis] == pytest.approx(force, abs=2e-3)
    # The stress is that of the whole cell, vacuum included. Plane waves that change with the cell (Pulay) add the same
    # to each component of the finite differences, so that it is the difference of two that must agree.
    differences = [(energy[row] - energy[row + 1]) / (2 * STRAIN) / slab.get_volume() for row in (5, 7)]
    stress = labels.stress[0, [0, 2]]
    assert abs(differences[0] - differences[1]) > 0.01
    assert stress[0] - stress[1] == pytest.approx(differences[0] - differences[1], rel=0.02)
    np.testing.assert_allclose(stress, differences, atol=1e-3)

    labels.write_extxyz(tmp_path / 'slab.xyz')
    assert 'REF_forces' in (written := (tmp_path / 'slab.xyz').read_text())
    assert 'REF_stress' not in written, 'MACE would compare it with the stress of another cell'
