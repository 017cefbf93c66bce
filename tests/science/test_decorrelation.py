from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.science.decorrelation import statistical_inefficiency


@pytest.mark.parametrize('memory', [0.0, 0.5, 0.9])
def test_first_order_processes_have_the_known_inefficiency(memory):
    rng = np.random.default_rng(1)
    n_rows = 40_000
    series = np.zeros((n_rows, 3))
    noise = rng.normal(size=(n_rows, 3))
    for row in range(1, n_rows):
        series[row] = memory * series[row - 1] + noise[row]
    # 1 + 2 sum of memory^t
    assert statistical_inefficiency(series) == pytest.approx((1 + memory) / (1 - memory), rel=0.05)


def test_the_variance_of_the_mean_is_what_it_says():
    """Means of blocks scatter as if there were so many times fewer frames."""
    rng = np.random.default_rng(2)
    series = np.convolve(rng.normal(size=60_000), np.ones(8) / 8, mode='valid')
    inefficiency = statistical_inefficiency(series[:, None])
    blocks = series[: len(series) // 600 * 600].reshape(-1, 600)
    assert inefficiency == pytest.approx(600 * blocks.mean(axis=1).var() / series.var(), rel=0.3)


def test_what_does_not_move_is_one_frame_and_few_frames_tell_nothing():
    assert statistical_inefficiency(np.ones((30, 2))) == 30
    assert statistical_inefficiency(np.zeros((9, 2))) == 1
    assert statistical_inefficiency(np.zeros((0, 2))) == 1
