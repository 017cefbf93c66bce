from __future__ import annotations

import json

import numpy as np
import pytest

from aiida_mlipal.science.calibration import calibrate
from aiida_mlipal.science.calibration.coverage import SIGNIFICANCE, check_coverage
from aiida_mlipal.science.calibration.metrics import LEVELS
from aiida_mlipal.science.configurations import Configurations

from ..builders import evaluation_of, silicon


def stream(n: int, seed: int, iteration: int, error: float = 1.0, per_trajectory: int = 1, role: str = 'calibration'):
    """Return labelled frames of which a model errs ``error`` times its spread, and what it says of them."""
    rng = np.random.default_rng(seed)
    sigma = np.repeat(rng.uniform(0.05, 0.5, n), 2)
    names = [f'i{iteration:02d}-r{index // per_trajectory:03d}' for index in range(n)]
    dataset = Configurations.from_atoms(
        silicon(n, seed), role=role, status='labelled', energy=0.0, trajectory=names,
        forces=error * sigma[:, None] * rng.normal(size=(2 * n, 3)),
    )  # fmt: skip
    return dataset, evaluation_of(dataset, np.zeros((n, 1)), forces_std=sigma, n_members=1)


def check(calibration, new, previous=None):
    labels, predictions = new
    expected = calibration.expected_errors(predictions.max_forces_std, predictions.n_atoms)
    return check_coverage(calibration, labels, predictions, expected, previous)


@pytest.fixture(scope='module')
def calibration():
    found = calibrate(*stream(60, 1, 0), lower_factor=1.5, upper_factor=10)
    assert found is not None
    return found


def test_good_intervals_raise_an_alarm_as_rarely_as_promised(calibration):
    """Calibration frames of one law and new ones of the same, both drawn anew each time."""
    alarms, coverage = [], []
    for seed in range(100):
        fitted = calibrate(*stream(60, 1000 + seed, 0), lower_factor=1.5, upper_factor=10)
        found = check(fitted, stream(20, 5000 + seed, 1))
        alarms.append(found['alarm'])
        coverage.append([entry['covered_frames'] / entry['n_frames'] for entry in found['levels']])
    assert np.mean(alarms) < SIGNIFICANCE + 0.05
    assert (np.mean(coverage, axis=0) > np.array(LEVELS) - 0.03).all()
    assert (np.mean(coverage, axis=0) < np.array(LEVELS) + 0.05).all()


def test_a_broken_calibration_raises_an_alarm(calibration):
    """The model errs three times as much as when it was calibrated."""
    found = check(calibration, stream(10, 2, 1, error=3.0))
    assert found['alarm']
    assert any(message.startswith('Intervals of 90%') for message in found['messages'])
    assert 'of 10 new random frames' in found['messages'][0]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert not check(calibration, stream(10, 2, 1))['alarm']


def test_few_frames_an_iteration_add_up(calibration):
    """Two trajectories say little; those of several iterations together say enough."""
    previous = None
    alarms = []
    for iteration in range(1, 8):
        previous = check(calibration, stream(2, 40 + iteration, iteration, error=1.6), previous)
        alarms.append(previous['alarm'])
        assert previous['levels'][0]['n_trajectories'] == 2
        assert previous['levels'][0]['n_trajectories_in_all'] == 2 * iteration
    assert (alarms[0], alarms[-1]) == (False, True)


def test_trajectories_count_once(calibration):
    """Ten frames that are all outside are one trajectory, which may happen to any interval of 90 %."""
    found = check(calibration, stream(10, 2, 1, error=20.0, per_trajectory=10))
    by_level = {entry['level']: entry for entry in found['levels']}
    assert by_level[0.9]['covered_frames'] == 0
    assert by_level[0.9]['n_trajectories'] == 1
    assert by_level[0.9]['p_value'] == pytest.approx(0.1)
    assert not by_level[0.9]['is_short']
    mixed = check(calibration, stream(10, 3, 1, per_trajectory=5))
    for entry in mixed['levels']:
        assert entry['n_trajectories'] == 2
        assert entry['covered_trajectories'] == pytest.approx(entry['covered_frames'] / 5)


def test_counts_are_those_of_the_bounds(calibration):
    labels, predictions = stream(30, 9, 1)
    found = check(calibration, (labels, predictions))
    expected = calibration.expected_errors(predictions.max_forces_std, predictions.n_atoms)
    worst = np.linalg.norm(labels.forces.reshape(30, 2, 3), axis=2).max(axis=1)
    assert [frame['largest_error'] for frame in found['frames']] == pytest.approx(worst.tolist())
    for entry in found['levels']:
        bounds = calibration.bounds(entry['level'], expected, labels.n_atoms, ['Si2'] * 30)
        assert entry['covered_frames'] == int((worst <= bounds).sum())


def test_what_has_no_bound_or_no_label_is_not_counted():
    few = calibrate(*stream(5, 1, 0), lower_factor=1.5, upper_factor=10)
    labels, predictions = stream(4, 2, 1)
    labels = labels.with_columns(status=['rejected', 'labelled', 'labelled', 'labelled'], reason=['no SCF', '', '', ''])
    found = check(few, (labels, predictions))
    assert found['n_rejected'] == 1
    assert [entry['n_frames'] for entry in found['levels']] == [3, 3, 0, 0]
    assert found['levels'][3]['p_value'] is None
    assert not found['alarm']
