from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.descriptors import on_grid, row_order, squared_distances, squared_norms, standardise


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), n_features=st.integers(1, 300), scale=st.sampled_from([1e-3, 1.0, 7.0, 1e4]))
def test_inner_products_are_exact(seed, n_features, scale):
    """Against rational numbers, with the product of a BLAS that is free to sum as it likes."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, n_features)) * scale
    rows[0] *= 30  # the longest row sets the grid
    left, right = on_grid(rows[:2].copy(), rows[2:].copy())
    assert np.abs(left - rows[:2]).max() <= max(2**-20, 2**-24 * np.linalg.norm(rows[0]))
    exact = [[sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(x, y, strict=True)) for y in right] for x in left]
    assert [[Fraction(value) for value in row] for row in squared_distances(left, right)] == exact
    assert [Fraction(value) for value in squared_norms(left)] == [sum(Fraction(a) ** 2 for a in x) for x in left]


def test_the_grid_does_not_depend_on_the_last_digits():
    """Rows of length one are everywhere: the spacing must not jump there."""
    for length in (1.0, 2.0, 64.0, 2.0**20):
        first, second = (on_grid(np.array([[length * factor, 0.0]]))[0] for factor in (1 - 1e-15, 1 + 1e-15))
        assert first.tobytes() == second.tobytes()


def test_standardise():
    rng = np.random.default_rng(1)
    pool, reference = rng.normal(5, [1e-3, 1, 100], (40, 3)), rng.normal(5, [1e-3, 1, 100], (10, 3))
    table, known = standardise(pool, reference)
    both = np.concatenate((table, known))
    assert both.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)
    # 1e-3 is what single precision leaves of the last feature: it says nothing and is dropped.
    assert both.std(axis=0) == pytest.approx(np.array([0, 1, 1]) / np.sqrt(2), abs=1e-5)
    assert (np.round(both * 2**20) == both * 2**20).all()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 50))
def test_standardise_knows_no_order(seed, n):
    rng = np.random.default_rng(seed)
    pool, reference = rng.normal(size=(n, 5)), rng.normal(size=(7, 5))
    order, other = rng.permutation(n), rng.permutation(7)
    first, second = standardise(pool, reference), standardise(pool[order], reference[other])
    assert first[0][order].tobytes() == second[0].tobytes()
    assert first[1][other].tobytes() == second[1].tobytes()
    assert (pool[order][row_order(pool[order])] == pool[row_order(pool)]).all()


def test_standardise_constant_and_empty():
    table, known = standardise(np.full((3, 2), 7.0), np.zeros((0, 2)))
    assert (table == 0).all()
    assert known.shape == (0, 2)
    with pytest.raises(ValueError, match=r'2 descriptors per frame and the training set an array of shape \(4, 3\)'):
        standardise(np.zeros((3, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match='not finite'):
        standardise(np.full((3, 2), np.nan), np.zeros((0, 2)))
