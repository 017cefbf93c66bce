"""Random cells keep their constraints."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_random_search import RandomSearchPlan, random_cell


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.lists(st.sampled_from([6, 14, 29]), min_size=1, max_size=6),
    low=st.floats(14, 20),
    separation=st.floats(0.5, 0.85),
    seed=st.integers(0, 2**32 - 1),
)
def test_atoms_keep_their_distances_in_the_given_volume(numbers, low, separation, seed):
    numbers = np.sort(numbers)
    atoms = random_cell(numbers, (low, low + 6), separation, np.random.default_rng(seed))
    assert atoms.numbers.tolist() == numbers.tolist()
    assert low * len(atoms) * (1 - 1e-9) <= atoms.get_volume() <= (low + 6) * len(atoms) * (1 + 1e-9)
    lengths, angles = np.split(atoms.cell.cellpar(), 2)
    assert lengths.max() <= 2 * lengths.min() * (1 + 1e-9)
    assert ((angles > 59.99) & (angles < 120.01)).all()
    # All images as far as they can matter, without the search that made the cell.
    images = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T @ atoms.cell.array
    for i, first in enumerate(atoms.positions):
        for j, second in enumerate(atoms.positions):
            distances = np.linalg.norm(second - first + images, axis=1)
            if i == j:
                distances = distances[distances > 1e-9]
            limit = separation * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
            assert distances.min() >= limit - 1e-9


def test_the_same_seed_gives_the_same_cell():
    cells = [random_cell(np.array([14] * 4), (15, 25), 0.8, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert (cells[0].positions == cells[1].positions).all()
    assert not np.allclose(cells[0].cell, cells[2].cell)


def test_cells_that_cannot_be_filled_are_named():
    with pytest.raises(
        ValueError, match=r'Si4 found no place in .* cells of 5.0 to 5.1 Å³ per atom .* lower `separation`'
    ):
        random_cell(np.array([14] * 4), (5.0, 5.1), 0.95, np.random.default_rng(1))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'composition': {'Xx': 1}}, 'unknown element `Xx`'),
        ({'composition': {'Si': 0}}, 'at least 1'),
        ({'composition': ['Si']}, r'a mapping as \{Si: 8\}'),
        ({'volume_per_atom': [20, 10]}, 'a number from 20'),
        ({'volume_per_atom': 20}, 'must be two numbers'),
        ({'composition': {'Si': 8}, 'volume_per_atom': [2, 2.5]}, 'raise the one or lower the other'),
        ({'relax_cells': 1}, 'true or false'),
        ({'n_structure': 1}, 'Did you mean `n_structures`'),
    ],
)
def test_bad_keys_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ExplorationSettings(seed=1, plans=[{'kind': 'random_search', **changes}])


def test_what_is_not_given_comes_from_the_start():
    start = bulk('Si')
    assert RandomSearchPlan().numbers(start).tolist() == [14, 14]
    assert RandomSearchPlan(composition={'O': 2, 'C': 1}).numbers(start).tolist() == [6, 8, 8]
    own = start.get_volume() / 2
    np.testing.assert_allclose(RandomSearchPlan().volumes(start), (0.8 * own, 1.4 * own))
    assert RandomSearchPlan(volume_per_atom=[10, 20]).volumes(molecule('H2O')) == (10, 20)
    with pytest.raises(ValueError, match='give `volume_per_atom`'):
        RandomSearchPlan().volumes(molecule('H2O'))
