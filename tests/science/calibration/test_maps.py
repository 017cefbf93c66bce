from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.calibration.maps import ErrorMap, finite_committee, fit_map, fit_power_law, fit_scale


def draw(power: float, n: int = 3000, seed: int = 0, n_trajectories: int = 20):
    """Return uncertainties, mean squared errors of three components of width ``2 u**power``, names of trajectories."""
    rng = np.random.default_rng(seed)
    sigma = np.exp(rng.normal(size=n))
    square = np.mean((2 * sigma**power)[:, None] ** 2 * rng.normal(size=(n, 3)) ** 2, axis=1)
    return sigma, square, np.array([f'i00-r{index % n_trajectories:03d}' for index in range(n)])


@pytest.mark.parametrize('power', [0.5, 0.8, 1.6])
def test_a_power_law_is_recovered_where_there_is_one(power):
    sigma, square, trajectory = draw(power)
    found, why = fit_map(sigma, square, np.ones(len(sigma)), trajectory, n_frames=50)
    assert why.startswith('a power law')
    assert found.power == pytest.approx(power, abs=0.05)
    grid = np.geomspace(0.1, 10, 7)
    np.testing.assert_allclose(found(grid), 2 * grid**power, rtol=0.1)


def test_a_scale_is_kept_where_it_is_the_truth():
    """Of twenty data sets, a needless parameter is taken in few, and then does next to nothing."""
    powers = []
    for seed in range(20):
        sigma, square, trajectory = draw(1.0, n=600, seed=seed)
        found, _ = fit_map(sigma, square, np.ones(len(sigma)), trajectory, n_frames=50)
        powers.append(found.power)
    assert np.mean(np.array(powers) == 1) > 0.85
    assert np.abs(np.array(powers) - 1).max() < 0.1


@pytest.mark.parametrize(('n_frames', 'n_trajectories'), [(19, 20), (50, 4)])
def test_too_few_frames_or_trajectories_get_a_scale_and_say_so(n_frames, n_trajectories):
    sigma, square, trajectory = draw(0.5, n_trajectories=n_trajectories)
    found, why = fit_map(sigma, square, np.ones(len(sigma)), trajectory, n_frames)
    assert found.power == 1
    assert why == (
        f'a scale: {n_frames} calibration frames of {n_trajectories} trajectories, a power law needs 20 of 5'
    )


def test_a_trajectory_is_never_on_both_sides_of_a_split(monkeypatch):
    sigma, square, trajectory = draw(0.5, n=200)
    known = dict(zip(square.tolist(), trajectory.tolist(), strict=True))
    seen = []

    def spy(uncertainty, squared, weights):
        seen.append({known[value] for value in squared.tolist()})
        return 1.0

    monkeypatch.setattr('aiida_mlipal.science.calibration.maps._likeliest_power', spy)
    fit_map(sigma, square, np.ones(200), trajectory, n_frames=50)
    assert len(seen) == 5
    left_out = [set(trajectory.tolist()) - names for names in seen]
    assert sorted(name for names in left_out for name in names) == sorted(set(trajectory.tolist()))


@settings(deadline=None, max_examples=25)
@given(power=st.floats(0.3, 2), seed=st.integers(0, 99), n=st.integers(5, 200))
def test_maps_are_monotone(power, seed, n):
    sigma, square, _ = draw(power, n, seed)
    grid = np.concatenate(([0.0], np.geomspace(1e-4, 1e4, 60)))
    for fit in (fit_scale, fit_power_law):
        values = fit(sigma, square, np.ones(n))(grid)
        assert (np.diff(values) > 0).all()
        assert values[0] == 0


def test_weights_are_repetitions():
    sigma, square, _ = draw(0.7, n=40)
    weights = np.tile([1.0, 3.0], 20)
    repeated = np.repeat(np.arange(40), weights.astype(int))
    for fit in (fit_scale, fit_power_law):
        one, other = fit(sigma, square, weights), fit(sigma[repeated], square[repeated], np.ones(len(repeated)))
        assert one.alpha == pytest.approx(other.alpha)
        assert one.power == pytest.approx(other.power, abs=1e-3)


def test_finite_committee():
    assert finite_committee(9.0, 4) == (
        pytest.approx(np.sqrt(8.75)),
        '1/4 subtracted from alpha squared (Imbalzano 2021)',
    )
    assert finite_committee(9.0, 3)[1] == 'none: 3 members, the finite-committee correction needs 4 or more'
    assert finite_committee(9.0, 3)[0] == 3
    assert ErrorMap(2.0)(np.array([0.5])) == 1.0
