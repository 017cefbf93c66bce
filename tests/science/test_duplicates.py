from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.duplicates import distinct, nearest_distance


@settings(deadline=None, max_examples=20)
@given(n=st.integers(0, 600), m=st.integers(1, 40), seed=st.integers(0, 1000))
def test_nearest_distance_against_a_loop(n, m, seed):
    rng = np.random.default_rng(seed)
    table, reference = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    expected = [min(np.linalg.norm(row - other) for other in reference) for row in table[:50]]
    assert np.allclose(nearest_distance(table, reference)[:50], expected)


def test_nothing_to_compare_with_is_infinitely_far():
    assert np.isinf(nearest_distance(np.ones((3, 2)), np.zeros((0, 2)))).all()


@pytest.mark.parametrize(
    ('n', 'seed', 'distance'), [(0, 0, 0.1), (1, 0, 0.1), (300, 1, 0.0), (700, 2, 0.05), (600, 3, 0.5)]
)
def test_distinct_against_a_loop(n, seed, distance):
    """Blocks of 256 rows must not show: sizes go across several of them."""
    table = np.random.default_rng(seed).normal(size=(n, 2))
    kept: list[int] = []
    expected = []
    for row in range(n):
        near = bool((np.linalg.norm(table[kept] - table[row], axis=1) <= distance).any()) if kept else False
        expected.append(near)
        if not near:
            kept.append(row)
    owner = distinct(table, distance)
    assert (owner != np.arange(n)).tolist() == expected
    assert set(owner.tolist()) == set(kept)
    assert (np.linalg.norm(table - table[owner], axis=1) <= distance).all()
