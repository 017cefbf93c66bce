from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.metrics import FrameErrors, frame_errors, pooled_rmse, summary, upper_bound

from .builders import evaluation_of


def mixed():
    """Silicon, water, aluminium and a rejected frame, with their evaluation."""
    rng = np.random.default_rng(3)
    frames = [bulk('Si'), molecule('H2O'), bulk('Al'), bulk('Cu')]
    dataset = Configurations.from_atoms(
        frames,
        role=['test', 'test', 'calibration', 'test'],
        status=['labelled', 'labelled', 'labelled', 'rejected'],
        trajectory=['a', 'b', 'a', 'c'],
        energy=rng.normal(size=4),
        forces=rng.normal(size=(7, 3)),
    )
    evaluation = evaluation_of(dataset, np.zeros((4, 1)), energy=rng.normal(size=4), forces=rng.normal(size=(7, 3)))
    return dataset, evaluation


def test_frame_errors_frame_by_frame():
    dataset, evaluation = mixed()
    errors = frame_errors(dataset, evaluation.take([2, 1, 0]), ['test'])
    assert errors.frame_id.tolist() == dataset.frame_id[[0, 1, 3]].tolist()
    assert errors.failed.tolist() == [False, False, True]
    water = evaluation.forces[2:5] - dataset.forces[2:5]
    assert errors.force_sq_error[1] == pytest.approx(np.mean(water**2))
    assert errors.force_abs_error[1] == pytest.approx(np.mean(np.abs(water)))
    assert errors.force_max_error[1] == pytest.approx(np.abs(water).max())
    assert errors.energy_error_per_atom[1] == pytest.approx((evaluation.energy[1] - dataset.energy[1]) / 3)
    assert np.isnan(errors.force_sq_error[2])
    assert len(frame_errors(dataset, evaluation, ['validation'])) == 0
    with pytest.raises(KeyError, match='was not evaluated'):
        frame_errors(dataset, evaluation.take([2, 3]), ['test'])


def test_summary_pools_all_components():
    dataset, evaluation = mixed()
    result = summary(frame_errors(dataset, evaluation, ['test', 'calibration']))
    difference = (evaluation.forces - dataset.forces)[:6]
    energy = ((evaluation.energy - dataset.energy) / dataset.n_atoms)[:3]
    assert result['force_rmse'] == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert result['force_mae'] == pytest.approx(np.mean(np.abs(difference)))
    assert result['force_max'] == pytest.approx(np.abs(difference).max())
    assert result['energy_rmse_per_atom'] == pytest.approx(np.sqrt(np.mean(energy**2)))
    assert result['energy_mae_per_atom'] == pytest.approx(np.mean(np.abs(energy)))
    assert (result['n_frames'], result['n_failed'], result['n_trajectories']) == (4, 1, 3)
    json.dumps(result, allow_nan=False)


def test_summary_of_nothing():
    dataset, evaluation = mixed()
    result = summary(frame_errors(dataset.take([3]), evaluation, ['test']))
    assert result['force_rmse'] is None
    assert result['n_failed'] == 1


def test_concatenate_and_take():
    errors = frame_errors(*mixed(), ['test', 'calibration'])
    again = FrameErrors.concatenate([errors.take(np.array([0, 1])), errors.take(np.array([2, 3]))])
    assert again.frame_id.tolist() == errors.frame_id.tolist()


def test_upper_bound_covers_the_truth_of_correlated_frames():
    """Frames of one trajectory share most of their error; treated as independent, the bound would be far too low."""
    rng = np.random.default_rng(0)
    n_groups, n_each, n_trials, truth = 12, 8, 100, 1.0
    names = np.repeat(np.arange(n_groups), n_each).astype(str)
    covered = naive = 0
    for trial in range(n_trials):
        shared = np.repeat(rng.normal(size=n_groups), n_each)
        values = truth + 0.4 * shared + 0.1 * rng.normal(size=len(names))
        covered += upper_bound(values, names, np.mean, confidence=0.9, seed=trial, n_resamples=100) >= truth
        unique = np.arange(len(names)).astype(str)
        naive += upper_bound(values, unique, np.mean, confidence=0.9, seed=trial, n_resamples=100) >= truth
    assert 0.8 <= covered / n_trials <= 0.97
    assert naive / n_trials < 0.8


def test_upper_bound_is_seeded_and_never_below_the_estimate():
    values, names = np.arange(10.0) ** 1.7, np.array(list('aabbccddee'))
    bounds = [upper_bound(values, names, np.mean, seed=seed) for seed in (1, 1, 2)]
    assert bounds[0] == bounds[1] != bounds[2]
    assert upper_bound(np.ones(10), names, np.mean, seed=1) == 1.0
    assert upper_bound(values, names, np.mean, seed=1, confidence=0.99) > bounds[0] > values.mean()


def test_one_trajectory_has_no_bound():
    assert np.isnan(upper_bound(np.arange(5.0), ['a'] * 5, np.mean, seed=1))


def test_pooled_rmse_weighs_by_atoms():
    assert pooled_rmse(np.array([[1.0, 1], [4.0, 2]])) == pytest.approx(np.sqrt(3))
