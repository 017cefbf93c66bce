"""Labels needed and saved, against power laws whose ratio is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from aiida_mlipal.science.learning_curves import LearningCurve, label_saving, labels_needed

SIZES = np.array([20, 40, 60, 80, 100, 120])


def power_law(n_labels: np.ndarray, saved: float, exponent: float = 0.5) -> np.ndarray:
    """Return errors of a strategy that needs ``saved`` times fewer labels than ``n**-exponent`` does."""
    return 2.0 * (saved * n_labels) ** -exponent


def noisy(
    saved: float, effects: np.ndarray, rng: np.random.Generator, scale: float = 0.04, members: int = 3
) -> LearningCurve:
    """Return a curve whose frames come from trajectories that are harder or easier, each model with its own luck.

    The effects have mean square 1, so that the pooled error follows the power law.
    """
    luck = np.exp(rng.normal(scale=scale, size=(len(SIZES), len(effects))) - scale**2)
    per_cluster = (power_law(SIZES, saved)[:, None] * luck) ** 2 * effects
    return LearningCurve(SIZES, np.repeat(per_cluster, members, axis=1))


def test_labels_needed_follows_the_power_law():
    """Between and at the points; a target above the first error takes the first number, one below the last is not
    reached."""
    errors = power_law(SIZES, 1.0)
    for wanted in (20.0, 33.0, 50.0, 119.0, 120.0):
        assert labels_needed(SIZES, errors, 2 * wanted**-0.5) == pytest.approx(wanted)
    assert labels_needed(SIZES, errors, 1.0) == 20
    assert labels_needed(SIZES, errors, 0.9 * errors[-1]) == np.inf


def test_a_bump_is_smoothed():
    """A lucky model does not count for more than its neighbours allow: both are the mean of their logarithms."""
    errors = np.array([1.0, 0.4, 0.8, 0.3])
    middle = np.sqrt(0.4 * 0.8)
    assert labels_needed([10, 20, 30, 40], errors, middle) == pytest.approx(20)
    assert labels_needed([10, 20, 30, 40], errors, 0.5) > 30


@pytest.mark.parametrize('saved', [2.0, 1.0, 0.6])
@pytest.mark.parametrize('target', [None, 0.25])
def test_known_ratio(saved, target):
    """Without noise the ratio is exact, whichever way it goes, and swapping the curves inverts it."""
    rng = np.random.default_rng(0)
    effects = np.ones(5)
    curves = [noisy(value, effects, rng, scale=0.0) for value in (saved, 1.0)]
    common = {'weights': np.ones(15), 'clusters': np.repeat(np.arange(5), 3), 'seed': 1, 'target': target}
    found = label_saving(*curves, **common)
    assert found.ratio == pytest.approx(saved)
    assert found.low == pytest.approx(saved)
    assert found.high == pytest.approx(saved)
    assert label_saving(*curves[::-1], **common).ratio == pytest.approx(1 / saved)
    if target is None:
        assert found.target == pytest.approx(max(curve.rmse(np.ones(15))[-1] for curve in curves))


@pytest.mark.parametrize('n_clusters', [5, 16])
@pytest.mark.parametrize('saved', [1.0, 1.5])
def test_coverage(n_clusters, saved):
    """Of 200 intervals at 90 %, about 180 hold the true ratio; not fewer than chance allows one time in a thousand."""
    held = 0
    for repeat in range(200):
        rng = np.random.default_rng([repeat, n_clusters])
        effects = rng.gamma(4.0, 1 / 4.0, size=n_clusters)
        curves = [noisy(value, effects, rng) for value in (saved, 1.0)]
        clusters = np.repeat(np.arange(n_clusters), 3)
        found = label_saving(
            *curves, weights=np.ones(len(clusters)), clusters=clusters, target=0.25, seed=repeat, n_resamples=200
        )
        held += found.low <= saved <= found.high
    assert held >= binom.ppf(0.001, 200, 0.9)


def test_few_frames_make_wide_intervals():
    """Frames of one trajectory are one piece of evidence: without their names the interval is too narrow."""
    rng = np.random.default_rng(7)
    curves = [noisy(value, np.ones(6), rng, scale=0.1, members=20) for value in (1.2, 1.0)]
    named = label_saving(*curves, weights=np.ones(120), clusters=np.repeat(np.arange(6), 20), target=0.25, seed=1)
    nameless = label_saving(*curves, weights=np.ones(120), clusters=np.arange(120), target=0.25, seed=1)
    assert np.log(named.high / named.low) > 2 * np.log(nameless.high / nameless.low)


def test_what_was_not_reached():
    """One curve that misses the target makes the ratio infinite or zero; both, not a number. None is an interval."""
    common = {'weights': np.ones(3), 'clusters': np.arange(3), 'seed': 1}
    good, bad = (LearningCurve(SIZES, np.repeat(power_law(SIZES, s)[:, None] ** 2, 3, axis=1)) for s in (4.0, 1.0))
    target = 0.12
    assert label_saving(good, bad, target=target, **common).ratio == np.inf
    assert label_saving(bad, good, target=target, **common).ratio == 0
    nothing = label_saving(bad, bad, target=target, **common)
    assert np.isnan(nothing.ratio)
    assert nothing.to_dict()['n_strategy'] is None
    single = label_saving(good, bad, weights=np.ones(3), clusters=np.zeros(3), seed=1)
    assert np.isnan(single.low)
    assert single.ratio == pytest.approx(4.0)


def test_refused():
    """Curves over different frames, sizes that fall, errors of the wrong shape."""
    curve = LearningCurve(SIZES, np.ones((6, 3)))
    with pytest.raises(ValueError, match='over 3 and 3 frames, with 2 weights'):
        label_saving(curve, curve, weights=[1, 1], clusters=[0, 1, 2], seed=1)
    with pytest.raises(ValueError, match='ascending'):
        LearningCurve(SIZES[::-1], np.ones((6, 3)))
    with pytest.raises(ValueError, match='expected one row for each model'):
        LearningCurve(SIZES, np.ones((5, 3)))
