from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from aiida_mlipal.science.cutouts import cluster_cutout, periodic_cutout
from aiida_mlipal.science.filters import too_close


def _surroundings(atoms: Atoms, centre: int, radius: float) -> np.ndarray:
    """Return elements and vectors of all neighbours within ``radius``, sorted."""
    first, second, vectors = neighbor_list('ijD', atoms, radius)
    mine = first == centre
    table = np.column_stack([atoms.numbers[second[mine]], vectors[mine]])
    return table[np.lexsort(np.round(table, 6).T)]


def _silicon(repeat: int, seed: int = 1) -> Atoms:
    atoms = bulk('Si', cubic=True) * (repeat, repeat, repeat)
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def test_the_core_stays_as_it_is_in_a_periodic_cell():
    atoms = _silicon(4)
    for centre in (0, 37, len(atoms) - 1):
        cut = periodic_cutout(atoms, centre, 4.5)
        assert len(cut.atoms) < len(atoms)
        assert cut.n_added == 0
        np.testing.assert_allclose(
            _surroundings(cut.atoms, cut.centre_row, 4.5), _surroundings(atoms, centre, 4.5), atol=1e-8
        )
        assert cut.atoms.numbers.tolist() == atoms.numbers[cut.rows].tolist()


def test_a_crystal_is_cut_into_whole_cells():
    cut = periodic_cutout(_silicon(4), 5, 4.5)
    assert len(cut.atoms) == 64
    assert cut.n_removed == 0


def test_what_meets_at_the_faces_is_taken_out_and_never_the_core():
    # Of five layers 4.8 Å apart half a cell holds three: the outer ones are 2.4 Å from the next image.
    grid = np.meshgrid(np.arange(4) * 3.5, np.arange(4) * 3.5, np.arange(5) * 4.8)
    sites = np.array(grid).reshape(3, -1).T
    disorder = np.random.default_rng(2).uniform(-0.3, 0.3, size=sites.shape)
    atoms = Atoms(f'Ar{len(sites)}', positions=sites + disorder, cell=[14.0, 14.0, 24.0], pbc=True)
    n_removed = 0
    for centre in range(0, 80, 9):
        cut = periodic_cutout(atoms, centre, 5.0, min_distance_factor=1.3)
        n_removed += cut.n_removed
        assert not too_close(cut.atoms.numbers, cut.atoms.positions, cut.atoms.cell.array, cut.atoms.pbc, 1.3)
        np.testing.assert_allclose(
            _surroundings(cut.atoms, cut.centre_row, 5.0), _surroundings(atoms, centre, 5.0), atol=1e-8
        )
    assert n_removed > 0, 'this test needs atoms that meet'


def test_cells_that_cannot_be_cut_are_named():
    with pytest.raises(ValueError, match='holds no smaller cell with 8 Å'):
        periodic_cutout(_silicon(3), 0, 8.0)
    with pytest.raises(ValueError, match='cut a cluster'):
        periodic_cutout(molecule('C6H6'), 0, 3.0)
    with pytest.raises(ValueError, match='there is no atom 99999'):
        periodic_cutout(_silicon(3), 99999, 3.0)
    with pytest.raises(ValueError, match='must be greater than 0'):
        cluster_cutout(_silicon(3), 0, 0.0)


def test_every_silicon_atom_of_a_cluster_has_four_bonds():
    atoms = _silicon(4)
    cut = cluster_cutout(atoms, 17, 5.0)
    assert not cut.atoms.pbc.any()
    assert cut.n_added > 0
    assert set(cut.atoms.numbers[cut.rows < 0].tolist()) == {1}
    is_silicon = cut.atoms.numbers == 14
    # Silicon to silicon, and silicon to hydrogen at the sum of the radii.
    lengths = cut.atoms.get_all_distances()
    bonded = (lengths < 1.25 * (1.11 + np.where(is_silicon, 1.11, 0.31)[None])) & ~np.eye(len(cut.atoms), dtype=bool)
    assert (bonded[is_silicon].sum(axis=1) == 4).all()
    hydrogen = lengths[np.ix_(~is_silicon, ~is_silicon)] + 10 * np.eye(int((~is_silicon).sum()))
    assert hydrogen.min() > 1.3
    inside = np.linalg.norm(cut.atoms.positions, axis=1) <= 5.0
    original = _surroundings(atoms, 17, 5.0)
    mine = np.column_stack([cut.atoms.numbers, cut.atoms.positions])[
        inside & (np.arange(len(inside)) != cut.centre_row)
    ]
    mine = mine[mine[:, 0] == 14]
    np.testing.assert_allclose(mine[np.lexsort(np.round(mine, 6).T)], original, atol=1e-8)


def test_molecules_stay_whole():
    water = molecule('H2O')
    liquid = Atoms()
    for index in range(27):
        one = water.copy()
        one.positions += 3.2 * np.array(np.unravel_index(index, (3, 3, 3)))
        liquid += one
    liquid.set_cell([9.6] * 3)
    liquid.pbc = True
    cut = cluster_cutout(liquid, 0, 3.5)
    assert cut.n_added == 0
    assert len(cut.atoms) % 3 == 0
    assert (cut.atoms.numbers == 1).sum() == 2 * (cut.atoms.numbers == 8).sum()


def test_a_cluster_that_meets_itself_is_refused():
    with pytest.raises(ValueError, match='meets its own image'):
        cluster_cutout(_silicon(1), 0, 4.0)
