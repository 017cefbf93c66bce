"""Every figure against a case with a known answer: errors ``OVERCONFIDENT`` times wider than they claim to be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from aiida_mlipal.science.calibration.metrics import (
    LEVELS,
    area_under_roc,
    coverage,
    expected_normalised_error,
    metrics,
    miscalibration_area,
    negative_log_likelihood,
    rank_correlation,
    reliability,
    sharpness,
)

OVERCONFIDENT = 3.0
RNG = np.random.default_rng(0)
SIGMA = RNG.uniform(0.05, 0.5, 40_000)
ERROR = OVERCONFIDENT * SIGMA[:, None] * RNG.normal(size=(40_000, 3))


def true_coverage(level: float) -> float:
    return 2 * norm.cdf(norm.ppf((1 + level) / 2) / OVERCONFIDENT) - 1


def test_coverage_of_an_overconfident_law():
    found = coverage(SIGMA, ERROR)
    assert list(found) == ['50', '68', '90', '95']
    assert list(found.values()) == pytest.approx([true_coverage(level) for level in LEVELS], abs=0.005)
    assert list(coverage(OVERCONFIDENT * SIGMA, ERROR).values()) == pytest.approx(LEVELS, abs=0.005)


def test_miscalibration_area_of_an_overconfident_law():
    exact = quad(lambda level: level - true_coverage(level), 0, 1)[0]
    assert miscalibration_area(SIGMA, ERROR) == pytest.approx(exact, abs=0.003)
    assert miscalibration_area(OVERCONFIDENT * SIGMA, ERROR) < 0.005
    assert miscalibration_area(1e-9 * SIGMA, ERROR) == pytest.approx(0.5, abs=0.01)  # as bad as can be


def test_reliability_counts_errors_within_an_interval():
    assert reliability(np.ones(4), np.array([0.0, 0.5, -1.5, 9.0]), [0.1, 0.5, 0.9]).tolist() == [0.25, 0.5, 0.75]


def test_ence_of_an_overconfident_law():
    assert expected_normalised_error(SIGMA, ERROR) == pytest.approx(OVERCONFIDENT - 1, rel=0.01)
    assert expected_normalised_error(OVERCONFIDENT * SIGMA, ERROR) < 0.02
    # Two bins with errors twice and half as large as expected: (1 + 0.5) / 2.
    sigma = np.array([1.0, 1.0, 3.0, 3.0])
    assert expected_normalised_error(sigma, np.array([2.0, -2.0, 1.5, 1.5]), n_bins=2) == pytest.approx(0.75)


def test_likelihood_of_an_overconfident_law():
    exact = np.mean(0.5 * np.log(2 * np.pi * SIGMA**2)) + OVERCONFIDENT**2 / 2
    square = np.mean(ERROR**2, axis=1)
    assert negative_log_likelihood(SIGMA, square) == pytest.approx(exact, rel=0.01)
    by_scipy = -norm.logpdf(ERROR, scale=SIGMA[:, None]).mean()
    assert negative_log_likelihood(SIGMA, square) == pytest.approx(by_scipy)
    trials = [negative_log_likelihood(factor * SIGMA, square) for factor in (2.0, 2.9, 3.0, 3.1, 4.0)]
    assert np.argmin(trials) == 2


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_area_under_roc_counts_pairs(rows):
    score = np.array([value for value, _ in rows], dtype=float)
    bad = np.array([flag for _, flag in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[bad] for b in score[~bad]]
    assert area_under_roc(score, bad) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_ranks():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 100, 1000])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2]), np.array([1.0, 2])) is None
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None


def test_sharpness_is_a_root_mean_square():
    assert sharpness(np.array([3.0, 4.0])) == pytest.approx(np.sqrt(12.5))


def test_all_figures_together_are_json():
    figures = metrics(SIGMA, ERROR, target=0.5)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures['coverage'] == coverage(SIGMA, ERROR)
    assert figures['auroc'] > 0.7
    assert figures['rmse'] == pytest.approx(OVERCONFIDENT * figures['sharpness'], rel=0.02)
    without = metrics(np.zeros(3), np.ones((3, 3)), target=0.5)
    assert without['coverage'] is without['auroc'] is without['negative_log_likelihood'] is None
