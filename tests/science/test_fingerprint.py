"""The fingerprint: invariant where it must be, smooth, sensitive, and its angular part against the double sum."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from scipy.special import eval_legendre

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.fingerprint import CUTOFF, fingerprints, thin


def _rattled(scale: float = 0.1, seed: int = 1) -> Atoms:
    atoms = bulk('NaCl', 'rocksalt', a=5.64, cubic=True)
    atoms.positions += np.random.default_rng(seed).normal(scale=scale, size=atoms.positions.shape)
    return atoms


def _one(atoms: Atoms) -> np.ndarray:
    return fingerprints(Configurations.from_atoms([atoms]))[0]


def test_invariant_under_rotation_permutation_shift_and_supercell():
    atoms = _rattled()
    rotated = atoms.copy()
    rotated.rotate(33.0, (1, 2, 3), rotate_cell=True)
    shifted = atoms.copy()
    shifted.positions += [0.3, -1.0, 2.0]
    shifted.wrap()
    for other in (rotated, shifted, atoms[[3, 1, 2, 0, 7, 6, 5, 4]], atoms * (2, 1, 1)):
        np.testing.assert_allclose(_one(other), _one(atoms), atol=1e-9)


def test_the_angular_part_is_the_sum_over_pairs_of_neighbours():
    """One element: the last four of the first half are means of the Legendre sums, computed here by brute force."""
    atoms = bulk('Si', cubic=True)
    atoms.positions += np.random.default_rng(2).normal(scale=0.2, size=atoms.positions.shape)
    centre, length, vector = neighbor_list('idD', atoms, CUTOFF)
    weight = (0.5 * (1 + np.cos(np.pi * length / CUTOFF))) ** 2
    sums = np.zeros((len(atoms), 4))
    for atom in range(len(atoms)):
        own = centre == atom
        cosines = (vector[own] @ vector[own].T) / np.outer(length[own], length[own])
        scale = (1 + weight[own].sum()) ** 2
        for degree in range(1, 5):
            terms = np.outer(weight[own], weight[own]) * eval_legendre(degree, cosines)
            sums[atom, degree - 1] = terms.sum() / scale
    sums /= (sums**2 + 1e-8) ** 0.25  # a root with the sign, softened at zero
    row = _one(atoms)
    n_functions = len(row) // 2
    np.testing.assert_allclose(row[n_functions - 4 : n_functions], sums.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(row[-4:], sums.std(axis=0), atol=1e-10)


def test_continuous_when_a_neighbour_crosses_the_cutoff():
    pair = [Atoms('Ar2', positions=[[0, 0, 0], [0, 0, CUTOFF + delta]]) for delta in (-1e-4, 1e-4)]
    assert np.linalg.norm(_one(pair[0]) - _one(pair[1])) < 1e-6


def test_what_the_default_distance_means():
    """A strain of 0.04 % in silicon is 0.01, as the documentation says."""
    atoms = bulk('Si', cubic=True)
    strained = atoms.copy()
    strained.set_cell(atoms.cell * 1.0004, scale_atoms=True)
    assert np.linalg.norm(_one(atoms) - _one(strained)) == pytest.approx(0.01, rel=0.15)


def test_frames_of_another_state_are_no_duplicates():
    atoms = _rattled()
    close = atoms.copy()
    close.positions[0, 0] += 1e-4
    frames = Configurations.from_atoms([atoms, close, atoms, atoms, atoms], charge=[0, 0, 1, 0, 0])
    frames = frames.with_columns(
        status=['labelled', 'labelled', 'labelled', 'rejected', 'labelled'],
        role=['train', 'train', 'train', 'train', 'isolated_atom'],
    )
    assert thin(frames, 0.01).tolist() == [True, False, True, True, True]
    assert thin(frames, 1e-9).tolist() == [True, True, True, True, True]


def test_earlier_frames_stay_when_later_ones_come():
    frames = [_rattled(0.02 * step, seed=3) for step in range(6)]
    columns = {'status': 'labelled'}
    few = thin(Configurations.from_atoms(frames[:4], **columns), 0.05)
    many = thin(Configurations.from_atoms(frames, **columns), 0.05)
    assert many[:4].tolist() == few.tolist()
