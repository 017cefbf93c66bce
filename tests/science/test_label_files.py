"""Labels from extended XYZ and from real output of VASP (ASE's own test files)."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from aiida_mlipal.science.label_files import DECLARED, LabelKeys, declared_atoms, file_format, read_labels_file

VASP = Path(ase.__file__).parent / 'test' / 'testdata' / 'vasp'


def _strained(strain: float):
    atoms = bulk('Al', cubic=True)
    atoms.positions[0, 0] += 0.05
    atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    atoms.calc = EMT()
    results = {'energy': atoms.get_potential_energy(), 'forces': atoms.get_forces(), 'stress': atoms.get_stress()}
    return atoms, results


@pytest.mark.parametrize('prefix', ['', 'REF_', 'my_'])
def test_extended_xyz_with_any_key(tmp_path, prefix):
    frames, expected = [], []
    for strain in (-0.02, 0.02):
        atoms, results = _strained(strain)
        copy = atoms.copy()
        if prefix:
            copy.info[f'{prefix}energy'], copy.info[f'{prefix}stress'] = results['energy'], results['stress']
            copy.arrays[f'{prefix}forces'] = results['forces']
        else:
            copy.calc = SinglePointCalculator(copy, **results)
        frames.append(copy)
        expected.append(results)
    path = tmp_path / 'frames.xyz'
    write(path, frames, format='extxyz')
    keys = LabelKeys(energy='my_energy', forces='my_forces', stress='my_stress') if prefix == 'my_' else LabelKeys()
    read = read_labels_file(path, path.name, keys)
    np.testing.assert_allclose(read.energy, [item['energy'] for item in expected], rtol=1e-7)
    np.testing.assert_allclose(read.forces, np.concatenate([item['forces'] for item in expected]), atol=1e-7)
    np.testing.assert_allclose(read.stress, [item['stress'] for item in expected], atol=1e-7)
    assert read.stress[0, 0] < 0 < read.stress[1, 0]  # compressed, stretched


def test_a_virial_is_minus_stress_times_volume(tmp_path):
    atoms, results = _strained(0.01)
    copy = atoms.copy()
    tensor = results['stress'][[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    copy.info.update(energy=results['energy'], virial=-tensor * atoms.get_volume())
    copy.arrays['forces'] = results['forces']
    write(tmp_path / 'a.extxyz', copy)
    read = read_labels_file(tmp_path / 'a.extxyz', 'a.extxyz', LabelKeys())
    np.testing.assert_allclose(read.stress[0], results['stress'], atol=1e-7)


def test_an_isolated_atom_is_told_by_its_config_type(tmp_path):
    atoms = bulk('Al')
    atoms.info.update(REF_energy=-1.0, config_type='IsolatedAtom')
    atoms.arrays['REF_forces'] = np.zeros((1, 3))
    write(tmp_path / 'a.xyz', atoms, format='extxyz')
    assert read_labels_file(tmp_path / 'a.xyz', 'a.xyz', LabelKeys()).role.tolist() == ['isolated_atom']


def test_missing_forces_are_refused_with_what_there_is(tmp_path):
    atoms = bulk('Al')
    atoms.info.update(REF_energy=-1.0)
    atoms.arrays['dft_force'] = np.zeros((1, 3))
    write(tmp_path / 'a.xyz', atoms, format='extxyz')
    with pytest.raises(ValueError, match=r'frame 0 of `a.xyz` has no forces under REF_forces or forces; it has .*'
                       r'`dft_force`.*Name it with `--forces-key`'):  # fmt: skip
        read_labels_file(tmp_path / 'a.xyz', 'a.xyz', LabelKeys())
    assert len(read_labels_file(tmp_path / 'a.xyz', 'a.xyz', LabelKeys(forces='dft_force'))) == 1


def test_outcar_of_vasp():
    """The energy is TOTEN, the free energy; the stress has the sign of ASE."""
    path = VASP / 'OUTCAR_example_1'
    frames = read_labels_file(path, path.name, LabelKeys())
    text = path.read_text()
    totens = [float(line.split()[-2]) for line in text.splitlines() if 'free  energy   TOTEN' in line]
    np.testing.assert_allclose(frames.energy[frames.is_labelled][-1], totens[-1])
    pressure = [float(line.split()[3]) for line in text.splitlines() if 'external pressure' in line][-1]  # kbar
    tension = frames.stress[-1, :3].mean() * 1602.1766
    assert tension == pytest.approx(-pressure, abs=0.05)


def test_vasprun_of_vasp():
    path = VASP / 'vasprun_pstress.xml'
    frames = read_labels_file(path, path.name, LabelKeys())
    assert frames.is_labelled.all()
    assert np.isfinite(frames.forces).all()


def test_a_step_of_vasp_that_used_all_scf_steps_is_rejected(tmp_path):
    import re

    text = (VASP / 'vasprun_pstress.xml').read_text()
    path = tmp_path / 'vasprun.xml'
    path.write_text(re.sub(r'name="NELM">\s*\d+', 'name="NELM">     1', text))
    frames = read_labels_file(path, path.name, LabelKeys())
    assert set(frames.reason.tolist()) == {'the SCF did not converge'}


def test_declared_atoms():
    atoms = declared_atoms({'Si': -105.2, 'O': -430.9})
    assert atoms.elements == ['O', 'Si']
    assert dict(zip(atoms.numbers.tolist(), atoms.energy.tolist(), strict=True)) == {8: -430.9, 14: -105.2}
    assert atoms.origin.tolist() == [DECLARED] * 2
    assert len(declared_atoms({})) == 0
    with pytest.raises(ValueError, match=r"\['Xx'\] are no elements"):
        declared_atoms({'Xx': 1.0})


def test_unknown_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r'cannot tell the format of `a.cif`'):
        file_format('a.cif')
    (tmp_path / 'a.xyz').write_text('no frames at all')
    with pytest.raises(ValueError, match=r'`a.xyz` cannot be read as extxyz'):
        read_labels_file(tmp_path / 'a.xyz', 'a.xyz', LabelKeys())
