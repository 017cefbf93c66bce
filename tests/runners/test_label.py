from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.runners.label import compute, run
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_log import INTERRUPTED, read_labels
from aiida_mlipal.science.label_settings import LabelSettings
from tests.committee import copper

GFN2 = {'method': 'GFN2-xTB', 'verbosity': 0, 'accuracy': 0.01}
#: Dies without a word, as a program does that crashes or is killed, at frames of three atoms.
DEADLY = """
import os
from ase.calculators.emt import EMT

class Deadly(EMT):
    def calculate(self, atoms=None, *arguments, **more):
        if len(atoms) == 3:
            os._exit(9)
        super().calculate(atoms, *arguments, **more)
"""


def label(frames: Configurations, folder: Path, **settings) -> Configurations:
    """Return what the runner makes of ``frames``, through its files."""
    frames.save(folder / 'configurations.npz')
    run(settings, folder)
    return read_labels(folder / 'labels.jsonl', frames)[0]


def moved(atoms: Atoms, atom: int, axis: int, h: float) -> list[Atoms]:
    """Return two copies with an atom moved by ``h`` and ``-h``."""
    copies = [atoms.copy(), atoms.copy()]
    for copy, sign in zip(copies, (1, -1), strict=True):
        copy.positions[atom, axis] += sign * h
    return copies


def strained(atoms: Atoms, axis: int, h: float) -> list[Atoms]:
    """Return two copies strained by ``h`` and ``-h`` along ``axis``."""
    copies = [atoms.copy(), atoms.copy()]
    for copy, sign in zip(copies, (1, -1), strict=True):
        copy.set_cell(atoms.cell.array @ (np.eye(3) + sign * h * np.diag(np.eye(3)[axis])), scale_atoms=True)
    return copies


@pytest.mark.parametrize(
    ('calculator', 'parameters', 'atoms'),
    [
        ('emt', {}, copper(1)),
        ('ase.calculators.lj.LennardJones', {'sigma': 2.2, 'epsilon': 0.4, 'rc': 5.0, 'smooth': True}, copper(2)),
    ],
)
def test_forces_and_stress_are_derivatives_of_the_energy(calculator, parameters, atoms, tmp_path):
    """Central differences of the labels themselves."""
    frames = Configurations.from_atoms([atoms, *moved(atoms, 1, 2, 1e-4), *strained(atoms, 1, 1e-4)])
    labels = label(frames, tmp_path, calculator=calculator, parameters=parameters)
    assert labels.is_labelled.all()
    energy = labels.energy
    assert labels.forces[1, 2] == pytest.approx(-(energy[1] - energy[2]) / 2e-4, abs=1e-4)
    assert labels.stress[0, 1] == pytest.approx((energy[3] - energy[4]) / 2e-4 / atoms.get_volume(), abs=1e-5)


def test_ethanol_with_gfn2(tmp_path):
    """Every force of a distorted molecule is the derivative of the energy to 2e-3 eV/Å; a molecule has no stress."""
    pytest.importorskip('tblite')
    atoms = molecule('CH3CH2OH')
    atoms.rattle(0.05, seed=1)
    h = 2e-3
    copies = [copy for atom in range(len(atoms)) for axis in range(3) for copy in moved(atoms, atom, axis, h)]
    labels = label(Configurations.from_atoms([atoms, *copies]), tmp_path, calculator='tblite', parameters=GFN2)
    assert labels.is_labelled.all(), labels.reason
    numerical = -(labels.energy[1::2] - labels.energy[2::2]).reshape(-1, 3) / (2 * h)
    np.testing.assert_allclose(labels.forces[: len(atoms)], numerical, atol=2e-3)
    assert np.abs(labels.forces[: len(atoms)]).max() > 0.5
    assert np.isnan(labels.stress).all()


@pytest.mark.parametrize('method', ['GFN1-xTB', 'GFN2-xTB'])
def test_salt_with_xtb(method, tmp_path):
    """Periodic xTB: forces and stress of a distorted crystal are derivatives; compression makes the stress negative.

    All atoms are off their sites: at perfect ones tblite's energy has kinks (0.01 eV/Å), where periodic images swap.
    """
    pytest.importorskip('tblite')
    atoms = bulk('NaCl', 'rocksalt', a=5.6)
    atoms.rattle(0.05, seed=1)
    h = 2e-3
    squeezed = atoms.copy()
    squeezed.set_cell(atoms.cell.array * 0.95, scale_atoms=True)
    frames = Configurations.from_atoms([atoms, squeezed, *moved(atoms, 0, 0, h), *strained(atoms, 0, h)])
    labels = label(frames, tmp_path, calculator='tblite', parameters={**GFN2, 'method': method})
    assert labels.is_labelled.all(), labels.reason
    energy, volume = labels.energy, atoms.get_volume()
    assert labels.forces[0, 0] == pytest.approx(-(energy[2] - energy[3]) / (2 * h), abs=2e-3)
    assert labels.stress[0, 0] == pytest.approx((energy[4] - energy[5]) / (2 * h) / volume, rel=0.02)
    assert labels.stress[1, :3].sum() < labels.stress[0, :3].sum(), 'compression must make the stress more negative'


def test_frame_that_fails_is_a_row_with_its_reason(tmp_path):
    nobody = Atoms('Xe2', positions=[[0, 0, 0], [0, 0, 3]])
    frames = Configurations.from_atoms([copper(1), nobody, copper(2)])
    labels = label(frames, tmp_path, calculator='emt')
    assert labels.frame_id.tolist() == frames.frame_id.tolist()
    assert labels.status.tolist() == ['labelled', 'rejected', 'labelled']
    assert 'Xe' in labels.reason[1]
    assert np.isnan(labels.energy[1])
    assert np.isnan(labels.forces[4:6]).all()


def test_labels_of_another_teacher_are_not_kept(tmp_path):
    """A frame that comes with a label and fails here must not show the old one."""
    frames = Configurations.from_atoms([copper(1), Atoms('Xe')], energy=[1.0, 2.0], status='labelled')
    labels = label(frames, tmp_path, calculator='emt')
    assert labels.energy[0] != 1.0
    assert np.isnan(labels.energy[1])


def test_open_shells_and_charges_reach_the_calculator(tmp_path):
    pytest.importorskip('tblite')
    frames = Configurations.from_atoms(
        [molecule('CH2_s1A1d'), molecule('CH2_s1A1d'), molecule('H2O'), molecule('H2O')],
        multiplicity=[1, 3, 1, 2],
        charge=[0, 0, 0, 1],
    )
    parameters = {'method': 'GFN2-xTB', 'spin_polarization': 1.0, 'verbosity': 0}
    labels = label(frames, tmp_path, calculator='tblite', parameters=parameters)
    singlet, triplet, water, cation = labels.energy
    assert triplet < singlet  # methylene is a triplet
    assert 10 < cation - water < 20  # the ionisation energy of water is 12.6 eV
    assert np.isnan(labels.stress).all()


def test_no_frame_depends_on_the_one_before():
    """Backwards, every label is the same to the last bit."""
    pytest.importorskip('tblite')
    atoms = [molecule('CH3CH2OH') for _ in range(3)]
    for seed, frame in enumerate(atoms):
        frame.rattle(0.05, seed=seed)
    settings = LabelSettings(calculator='tblite', parameters={'verbosity': 0})

    def energies(rows):
        lines = compute(Configurations.from_atoms(atoms), rows, settings)
        return {line['frame']: line['energy'] for line in lines if 'frame' in line}

    assert energies([0, 1, 2]) == energies([2, 1, 0])


def test_a_mace_committee_is_a_teacher(committee_files, tmp_path):
    """The label is the mean of the members, as the evaluation of the same committee says."""
    from mace.calculators import MACECalculator

    for path in committee_files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    labels = label(Configurations.from_atoms([copper(3), copper(4)]), tmp_path, calculator='mace')
    assert labels.is_labelled.all(), labels.reason
    for row, seed in enumerate((3, 4)):
        energies = []
        for path in committee_files:
            atoms = copper(seed)
            atoms.calc = MACECalculator(model_paths=str(path))
            energies.append(atoms.get_potential_energy())
        assert labels.energy[row] == pytest.approx(np.mean(energies), abs=1e-8)
    assert np.isfinite(labels.stress).all()


def test_parameter_that_the_class_does_not_know(tmp_path):
    """ASE's calculators would take it without a word."""
    with pytest.raises(ValueError, match='Did you mean `epsilon`'):
        label(Configurations.from_atoms([copper(1)]), tmp_path, calculator='lj', parameters={'epsilom': 1.0})


def test_class_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match='has no class `Emt`'):
        label(Configurations.from_atoms([copper(1)]), tmp_path, calculator='ase.calculators.emt.Emt')


def test_a_job_that_dies_keeps_what_it_had(tmp_path):
    """Two deadly frames of five: each job goes on where the last one died, and takes the deadly frames last."""
    (tmp_path / 'deadly.py').write_text(DEADLY)
    (tmp_path / 'settings.json').write_text('{"calculator": "deadly.Deadly"}')
    (tmp_path / 'runner.zip').write_bytes(build('label'))
    deadly = Atoms('Cu3', positions=[[0, 0, 0], [0, 0, 2.5], [0, 2.5, 0]])
    other = Atoms('Cu3', positions=[[0, 0, 0], [0, 0, 2.6], [0, 2.5, 0]])
    frames = Configurations.from_atoms([copper(1), deadly, copper(2), other, copper(3)])
    frames.save(tmp_path / 'configurations.npz')
    labels, found, computed = None, [], []
    for _ in range(3):
        process = subprocess.run([sys.executable, 'runner.zip'], cwd=tmp_path, env={'PYTHONPATH': '.'}, check=False)
        assert process.returncode == 9
        assert not (tmp_path / 'result.json').exists()
        labels, seconds = read_labels(tmp_path / 'labels.jsonl', frames, labels)
        labels.save(tmp_path / 'previous.npz')
        found.append(''.join('1' if labelled else '0' for labelled in labels.is_labelled))
        computed.append([row for row, second in enumerate(seconds) if second is not None])
    assert found == ['10000', '10100', '10101']
    assert computed == [[0], [2], [4]]
    assert labels.reason.tolist() == ['', INTERRUPTED, '', INTERRUPTED, '']
    assert labels.status[1] == 'unlabelled'
    (tmp_path / 'straight').mkdir()
    straight = label(frames.take([0, 2, 4]), tmp_path / 'straight', calculator='emt')
    np.testing.assert_array_equal(labels.energy[[0, 2, 4]], straight.energy)


def test_a_line_that_was_cut_is_not_read(tmp_path):
    """A full disk leaves half a line."""
    frames = Configurations.from_atoms([copper(1), copper(2)])
    complete = label(frames, tmp_path, calculator='emt')
    lines = (tmp_path / 'labels.jsonl').read_text().splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == ['started', 'frame', 'started', 'frame']
    (tmp_path / 'labels.jsonl').write_text('\n'.join(lines)[:-10])
    labels, seconds = read_labels(tmp_path / 'labels.jsonl', frames)
    assert labels.status.tolist() == ['labelled', 'unlabelled']
    assert labels.reason.tolist() == ['', INTERRUPTED]
    assert seconds[1] is None
    np.testing.assert_array_equal(labels.forces[:4], complete.forces[:4])
    assert np.isnan(labels.forces[4:]).all()
