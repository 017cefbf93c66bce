"""Dispersion corrections in real runs of pw.x and CP2K: held against what they print, a formula, and each other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.units import Hartree, J, Rydberg, mol, nm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.level_of_theory import difference
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long]

STEP = 0.01  #: Å
#: With Becke-Johnson damping and pairs only, in the words of either code, and out to where nothing is left.
PW_D3 = {'vdw_corr': 'grimme-d3', 'dftd3_version': 4, 'dftd3_threebody': False}
CP2K_D3 = {'PAIR_POTENTIAL': {'TYPE': 'DFTD3(BJ)', 'R_CUTOFF': '[angstrom] 40'}}


def _label(engine: str, engine_inputs: dict[str, Any], atoms: list[Atoms]) -> orm.WorkChainNode:
    """Label frames of one reference cell, every one of them."""
    configurations = Configurations.from_atoms(atoms, reference_cell=atoms[0].cell.array)
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(configurations),
        engine=orm.Str(engine),
        engine_inputs=engine_inputs,
        max_concurrent=orm.Int(2),
        reuse=orm.Bool(False),
    )
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.labels.configurations.is_labelled.all(), node.outputs.labels.configurations.reason
    assert trace(node).gaps == []
    return node


def _labels(node: orm.WorkChainNode) -> Configurations:
    return node.outputs.labels.configurations


def _output(node: orm.WorkChainNode) -> str:
    """Return what the code printed for the first frame."""
    jobs = [job for job in node.called_descendants if isinstance(job, orm.CalcJobNode)]
    return min(jobs, key=lambda job: job.pk).outputs.retrieved.base.repository.get_object_content('aiida.out')


@pytest.fixture
def pw_inputs(pw_code, pseudo_dir, tmp_path_factory) -> Callable[..., dict[str, Any]]:
    """Return a function that builds the inputs of pw.x for carbon and hydrogen with PBE."""
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    label = 'debian-pbe-acetylene'
    if not orm.QueryBuilder().append(PseudoPotentialFamily, filters={'label': label}).count():
        folder = tmp_path_factory.mktemp('pseudos')
        for name in ('C.pbe-rrkjus.UPF', 'H.pbe-kjpaw.UPF'):
            (folder / name).write_bytes((pseudo_dir / name).read_bytes())
        PseudoPotentialFamily.create_from_folder(folder, label, pseudo_type=UpfData)

    def build(atoms: Atoms, kpoints_distance: float, **system: Any) -> dict[str, Any]:
        settings = {
            'pseudo_family': label,
            'kpoints_distance': kpoints_distance,
            'kpoints_offset': [0.0, 0.0, 0.0],
            'clean_workdir': True,
            'max_iterations': 2,
            'parameters': {
                'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True},
                'SYSTEM': {'ecutwfc': 30.0, 'ecutrho': 240.0, 'occupations': 'smearing', 'smearing': 'gaussian',
                           'degauss': 0.02, **system},
                'ELECTRONS': {'conv_thr': 1e-11},
            },
        }  # fmt: skip
        options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
        engine = load_engine('quantumespresso')
        return engine.build(pw_code, [orm.StructureData(ase=atoms)], settings, options)

    return build


def _graphite() -> Atoms:
    """Return graphite with layers too close, its atoms displaced."""
    a = 2.46
    atoms = Atoms(
        'C4',
        cell=[[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 6.0]],
        scaled_positions=[[0, 0, 0], [1 / 3, 2 / 3, 0], [0, 0, 0.5], [2 / 3, 1 / 3, 0.5]],
        pbc=True,
    )
    atoms.positions += np.random.default_rng(4).normal(scale=0.1, size=(4, 3))
    return atoms


def _displaced(atoms: Atoms, axis: int) -> list[Atoms]:
    """Return ``atoms`` and two copies with the first atom moved forth and back."""
    frames = [atoms]
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, axis] += sign * STEP
        frames.append(moved)
    return frames


def _grimme_d2(atoms: Atoms, cutoff: float) -> float:
    """Return the D2 energy of carbon in eV, for PBE (Grimme, J. Comput. Chem. 27, 1787 (2006), eqs. 11 and 12)."""
    c6, radius, s6, damping = 1.75 * J * nm**6 / mol, 2 * 1.452, 0.75, 20.0
    repeats = np.ceil(cutoff * np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)).astype(int)
    shifts = np.array(list(itertools.product(*(range(-n, n + 1) for n in repeats)))) @ atoms.cell.array
    energy = 0.0
    for first, second in itertools.product(atoms.positions, repeat=2):
        distances = np.linalg.norm(second - first + shifts, axis=1)
        distances = distances[(distances > 1e-6) & (distances < cutoff)]
        energy -= 0.5 * s6 * c6 * (distances**-6 / (1 + np.exp(-damping * (distances / radius - 1)))).sum()
    return energy


def test_graphite_with_pw(pw_inputs):
    """D2 is its formula; D2 and D3 are what pw.x prints; forces are derivatives of the energy, the dispersion's too."""
    frames = _displaced(_graphite(), axis=2)
    plain_inputs = pw_inputs(frames[0], 1.1)
    plain = _labels(_label('quantumespresso', plain_inputs, frames))
    engine = load_engine('quantumespresso')
    for system, printed in (
        ({'vdw_corr': 'grimme-d2'}, r' Dispersion Correction\s+=\s+(-?[\d.]+) Ry'),
        (PW_D3, r'DFT-D3 Dispersion\s+=\s+(-?[\d.]+) Ry'),
    ):
        inputs = pw_inputs(frames[0], 1.1, **system)
        assert any('vdw_corr' in line for line in difference(*map(engine.level_of_theory, (plain_inputs, inputs))))
        node = _label('quantumespresso', inputs, frames)
        labels = _labels(node)
        force = -(labels.energy[1] - labels.energy[2]) / (2 * STEP)
        assert labels.forces[0, 2] == pytest.approx(force, abs=2e-3)
        dispersion, change = labels.energy - plain.energy, labels.forces[0, 2] - plain.forces[0, 2]
        assert dispersion[0] < -0.3
        assert dispersion[0] == pytest.approx(float(re.search(printed, _output(node))[1]) * Rydberg, abs=2e-5)
        assert abs(change) > 3e-3
        assert change == pytest.approx(-(dispersion[1] - dispersion[2]) / (2 * STEP), abs=3e-4)
        assert np.abs(labels.stress[0] - plain.stress[0]).max() > 1e-3, 'the correction must show in the stress'
        if system['vdw_corr'] == 'grimme-d2':
            formula = [_grimme_d2(atoms, cutoff=60.0) for atoms in frames]
            np.testing.assert_allclose(dispersion, formula, rtol=1e-3)
            assert change == pytest.approx(-(formula[1] - formula[2]) / (2 * STEP), abs=3e-4)


def test_acetylene_with_cp2k_and_pw(cp2k_inputs, pw_inputs):
    """Two codes, two implementations of D3, one number; in CP2K what it prints, and forces that are derivatives.

    A crystal of bent molecules, so that the small forces of the correction do not cancel.
    """
    atoms = Atoms('C2H2', positions=[[0, 0, 0], [1.25, 0.4, 0.2], [-1.0, 0.4, 0], [2.2, -0.2, 0.5]])
    atoms.set_cell([5.2, 3.6, 3.8])
    atoms.pbc = True
    frames = _displaced(atoms, axis=1)
    kind = [{'_': 'DEFAULT', 'BASIS_SET': 'SZV-MOLOPT-SR-GTH', 'POTENTIAL': 'GTH-PBE'}]
    shared = {'DFT': {'MGRID': {'CUTOFF': 300, 'REL_CUTOFF': 60}}, 'SUBSYS': {'KIND': kind}}
    with_d3 = {**shared, 'DFT': {**shared['DFT'], 'XC': {'VDW_POTENTIAL': CP2K_D3}}}
    plain = _labels(_label('cp2k', cp2k_inputs([atoms], {'FORCE_EVAL': shared}), frames))
    node = _label('cp2k', cp2k_inputs([atoms], {'FORCE_EVAL': with_d3}), frames)
    labels = _labels(node)
    force = -(labels.energy[1] - labels.energy[2]) / (2 * STEP)
    assert labels.forces[0, 1] == pytest.approx(force, abs=5e-3), 'the grid is coarse; without it, see below'
    dispersion, change = labels.energy - plain.energy, (labels.forces - plain.forces)[:4]
    assert dispersion[0] < -0.1
    printed = float(re.search(r'Dispersion energy:\s+(-?[\d.]+)', _output(node))[1])
    assert dispersion[0] == pytest.approx(printed * Hartree, abs=1e-4)
    assert abs(change[0, 1]) > 2e-3
    assert change[0, 1] == pytest.approx(-(dispersion[1] - dispersion[2]) / (2 * STEP), abs=1e-4)

    pw_plain, pw_d3 = (
        _labels(_label('quantumespresso', pw_inputs(atoms, 3.0, **system), frames[:1])) for system in ({}, PW_D3)
    )
    assert dispersion[0] == pytest.approx(pw_d3.energy[0] - pw_plain.energy[0], rel=2e-3)
    np.testing.assert_allclose(change, pw_d3.forces - pw_plain.forces, atol=2e-4)
    stress = labels.stress[0] - plain.stress[0]
    np.testing.assert_allclose(stress, pw_d3.stress[0] - pw_plain.stress[0], atol=0.02 * np.abs(stress).max())
