from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.science.calibration.conformal import Intervals, fit_intervals, quantile
from aiida_mlipal.science.calibration.metrics import LEVELS


def names(n: int, per_trajectory: int = 1) -> np.ndarray:
    return np.array([f'i00-r{index // per_trajectory:03d}' for index in range(n)])


def test_quantile_is_the_order_statistic_of_split_conformal():
    """Without groups and weights: the ceil((n + 1) level)-th smallest, or no bound."""
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
    for level in LEVELS:
        rank = int(np.ceil(20 * level - 1e-9))
        assert quantile(scores, names(19), np.ones(19), level) == (rank if rank <= 19 else None)
    assert quantile(scores[:18], names(18), np.ones(18), 0.95) is None
    assert quantile(scores[:8], names(8), np.ones(8), 0.9) is None
    assert quantile(scores[:0], names(0), np.ones(0), 0.5) is None
    assert quantile(np.full(30, np.inf), names(30), np.ones(30), 0.5) is None


def test_old_frames_weigh_less_and_never_narrow_the_new_ones():
    scores = np.concatenate((np.ones(20), np.full(20, 5.0)))
    weights = np.concatenate((np.full(20, 0.01), np.ones(20)))
    assert quantile(scores, names(40), np.ones(40), 0.5) == 5.0  # 20 / 41 is below one half
    assert quantile(scores, names(40), np.ones(40), 0.48) == 1.0
    assert quantile(scores, names(40), weights, 0.05) == 5.0


@pytest.mark.parametrize('per_trajectory', [1, 5])
@pytest.mark.parametrize('level', [0.5, 0.9])
def test_coverage_is_within_its_finite_sample_bound(level, per_trajectory):
    """200 repeats; errors with heavy tails; frames of one trajectory share most of their error.

    At least ``level``, and not more than 1 / (n + 1) above for single frames without ties; both up to three standard
    errors of a mean over repeats. Counting frames as independent would miss the lower bound for correlated ones.
    """
    rng = np.random.default_rng(1)
    n_trajectories, n_repeats, n_new = 19, 200, 200
    covered, naive = [], []
    for _ in range(n_repeats):
        shared = np.abs(rng.standard_t(3, n_trajectories + n_new))
        own = np.abs(rng.normal(1, 0.2, (n_trajectories, per_trajectory)))
        scores = (shared[:n_trajectories, None] * own).ravel()
        new = shared[n_trajectories:] * np.abs(rng.normal(1, 0.2, n_new))
        trajectory = names(len(scores), per_trajectory)
        bound = quantile(scores, trajectory, np.ones(len(scores)), level)
        covered.append(np.mean(new <= bound))
        apart = quantile(scores, names(len(scores)), np.ones(len(scores)), level)
        naive.append(np.mean(new <= apart))
    error = 3 * np.std(covered) / np.sqrt(n_repeats)
    assert np.mean(covered) >= level - error
    if per_trajectory == 1:
        assert np.mean(covered) <= level + 1 / (n_trajectories + 1) + error
    else:
        assert np.mean(naive) < np.mean(covered)


def test_a_trajectory_counts_once_however_long_it_is():
    """One trajectory of 1000 bad frames is one bad trajectory among twenty."""
    scores = np.concatenate((np.ones(19), np.full(1000, 9.0)))
    trajectory = np.array([*names(19), *['i01-r000'] * 1000])
    assert quantile(scores, trajectory, np.ones(1019), 0.9) == 1.0
    assert quantile(scores, trajectory, np.ones(1019), 0.95) == 9.0


def test_compositions_with_data_have_intervals_of_their_own():
    scores = np.concatenate((np.ones(25), np.full(25, 3.0), [7.0]))
    composition = np.array(['Si'] * 25 + ['Ge'] * 25 + ['C'])
    found = fit_intervals(scores, names(51), np.ones(51), composition)
    assert sorted(found.compositions) == ['Ge', 'Si']
    assert found.factors(0.9, ['Si', 'Ge', 'C']).tolist() == [1.0, 3.0, 3.0]
    alone = fit_intervals(scores[:25], names(25), np.ones(25), composition[:25])
    assert alone.compositions == {}
    few = Intervals(pooled=[1.0, 2.0, None, None], compositions={})
    assert few.factors(0.95, ['Si']).tolist() == [np.inf]
