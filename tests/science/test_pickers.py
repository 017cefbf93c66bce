from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.pickers import RIDGE, farthest_point, max_det, standardise

quick = settings(deadline=None, max_examples=25)
seeds, sizes = st.integers(0, 10**6), st.integers(1, 12)


def names(n: int) -> list[str]:
    return [f'f{index:03d}' for index in range(n)]


def log_det(rows: np.ndarray) -> float:
    """Of the kernel matrix over ``rows``, written out in full."""
    return float(np.linalg.slogdet(np.eye(len(rows)) + rows @ rows.T / RIDGE)[1])


@quick
@given(seed=seeds, n=sizes, n_reference=st.integers(0, 6), k=st.integers(0, 8))
def test_max_det_is_the_greedy_choice_by_determinant(seed, n, n_reference, k):
    rng = np.random.default_rng(seed)
    table, known = rng.normal(size=(n, 4)), list(rng.normal(size=(n_reference, 4)))
    picks = max_det(table, np.array(known).reshape(-1, 4), k, names(n))
    assert len(picks.order) == len(set(picks.order.tolist())) == min(k, n)
    for pick in picks.order.tolist():
        base = log_det(np.array(known).reshape(-1, 4))
        gains = [log_det(np.array([*known, row])) - base for row in table]
        free = [index for index in range(n) if not any(np.array_equal(table[index], row) for row in known)]
        assert gains[pick] >= max(gains[index] for index in free) - 1e-7
        assert picks.gain[pick] == pytest.approx(gains[pick], abs=1e-6)
        known.append(table[pick])
    base = log_det(np.array(known).reshape(-1, 4))
    for index in set(range(n)) - set(picks.order.tolist()):
        assert picks.gain[index] == pytest.approx(log_det(np.array([*known, table[index]])) - base, abs=1e-6)


@quick
@given(seed=seeds, n=sizes, n_reference=st.integers(0, 5))
def test_farthest_point_against_a_loop(seed, n, n_reference):
    rng = np.random.default_rng(seed)
    table, known = rng.normal(size=(n, 3)), list(rng.normal(size=(n_reference, 3)))
    picks = farthest_point(table, np.array(known).reshape(-1, 3), n, names(n))
    assert sorted(picks.order.tolist()) == list(range(n))
    for pick in picks.order.tolist():
        anchors = known or [np.zeros(3)]
        distances = [min(np.linalg.norm(row - other) for other in anchors) for row in table]
        taken = [any(np.array_equal(row, other) for other in known) for row in table]
        assert distances[pick] >= max(d for d, gone in zip(distances, taken, strict=True) if not gone) - 1e-8
        known.append(table[pick])


@pytest.mark.parametrize('method', [max_det, farthest_point])
@quick
@given(seed=seeds, n_copies=st.integers(1, 4), n_features=st.integers(1, 5))
def test_ties_do_not_depend_on_the_order_of_rows(method, seed, n_copies, n_features):
    """Symmetry-equivalent frames: all rows are signed unit vectors, so every score is tied many times over."""
    rng = np.random.default_rng(seed)
    table = np.concatenate([np.eye(n_features), -np.eye(n_features)] * n_copies)
    ids = np.array(names(len(table)))
    order = rng.permutation(len(table))
    reference = np.zeros((0, n_features))
    first = method(table, reference, n_features + 1, ids)
    second = method(table[order], reference, n_features + 1, ids[order])
    assert ids[first.order].tolist() == ids[order][second.order].tolist()
    assert (first.gain[order] == second.gain).all()
    # and not on the last digits
    noise = method(table * (1 + 1e-13 * rng.normal(size=table.shape)), reference, n_features + 1, ids)
    assert (noise.order == first.order).all()


def test_max_det_avoids_what_the_training_set_covers():
    reference = np.array([[1.0, 0, 0]] * 5)
    table = np.array([[1.0, 0, 0], [0, 0.4, 0], [0, 0, 0.3]])
    assert max_det(table, reference, 2, names(3)).order.tolist() == [1, 2]


def test_standardise():
    rng = np.random.default_rng(1)
    pool, reference = rng.normal(5, [1e-3, 1, 100], (40, 3)), rng.normal(5, [1e-3, 1, 100], (10, 3))
    table, known = standardise(pool, reference)
    both = np.concatenate((table, known))
    assert both.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)
    # 1e-3 is what single precision leaves of the last feature: it says nothing and is dropped.
    assert both.std(axis=0) == pytest.approx(np.array([0, 1, 1]) / np.sqrt(2), abs=1e-5)
    assert (np.round(both, 6) == both).all()


def test_standardise_constant_and_empty():
    table, known = standardise(np.full((3, 2), 7.0), np.zeros((0, 2)))
    assert (table == 0).all()
    assert known.shape == (0, 2)
    with pytest.raises(ValueError, match=r'2 descriptors per frame and the training set an array of shape \(4, 3\)'):
        standardise(np.zeros((3, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match='not finite'):
        standardise(np.full((3, 2), np.nan), np.zeros((0, 2)))
