import numpy as np
import pytest
from ase import Atoms

from aiida_mlipal.science.atomic_energies import from_isolated_atoms, least_squares
from aiida_mlipal.science.configurations import Configurations


def _frames(formulas, energies, role, status='labelled'):
    frames = [Atoms(formula, positions=np.arange(3 * len(Atoms(formula))).reshape(-1, 3)) for formula in formulas]
    return Configurations.from_atoms(frames, energy=np.array(energies), role=role, status=status)


def test_the_lowest_multiplicity_wins():
    frames = _frames(['CO', 'O2'], [-20.0, -30.0], 'train')
    atoms = _frames(['C', 'O', 'O', 'N'], [-5.0, -10.0, -11.5, -7.0], 'isolated_atom')
    rejected = _frames(['O'], [-99.0], 'isolated_atom', status='rejected')
    assert from_isolated_atoms(Configurations.concatenate([frames, atoms, rejected])) == {6: -5.0, 8: -11.5}


def test_a_missing_atom_is_named():
    frames = Configurations.concatenate([_frames(['CO'], [-20.0], 'train'), _frames(['C'], [-5.0], 'isolated_atom')])
    with pytest.raises(ValueError, match=r"no labelled isolated atom for \['O'\].*least_squares"):
        from_isolated_atoms(frames)


def test_least_squares_recovers_additive_energies():
    frames = _frames(['CO', 'O2', 'CO2', 'C2'], [-15.0, -20.0, -25.0, -10.0], 'train')
    test = _frames(['C'], [999.0], 'test')
    assert least_squares(Configurations.concatenate([frames, test])) == pytest.approx({6: -5.0, 8: -10.0})


def test_least_squares_of_one_composition():
    assert least_squares(_frames(['SiC', 'SiC'], [-10.0, -14.0], 'train')) == pytest.approx({6: -6.0, 14: -6.0})
