from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.calibration import Calibration, Thresholds, calibrate
from aiida_mlipal.science.configurations import Configurations

from .builders import evaluation_of, silicon


def synthetic(alpha: float, n_members: int, seed: int, n_frames: int = 400):
    """A committee drawn about a mean, and truths drawn from the same law, ``alpha`` times wider."""
    rng = np.random.default_rng(seed)
    n_total = 2 * n_frames
    sigma = rng.uniform(0.05, 0.5, (n_total, 1, 1))
    members = sigma * rng.normal(size=(n_total, 3, n_members))
    truth = alpha * sigma[:, :, 0] * rng.normal(size=(n_total, 3))
    dataset = Configurations.from_atoms(
        silicon(n_frames, seed), role='calibration', status='labelled', energy=np.zeros(n_frames), forces=truth
    )
    spread = np.sqrt(members.var(axis=2, ddof=1).mean(axis=1))
    return dataset, evaluation_of(dataset, np.zeros((n_frames, 1)), forces=members.mean(axis=2), forces_std=spread)


def fit(dataset, evaluation, n_members, **kwargs) -> Calibration:
    result = calibrate(dataset, evaluation, **{'lower_factor': 1.5, 'upper_factor': 10, **kwargs}, n_members=n_members)
    assert result is not None
    return result


@settings(deadline=None, max_examples=8)
@given(alpha=st.floats(0.8, 6), n_members=st.integers(4, 8), seed=st.integers(0, 1000))
def test_recovers_alpha(alpha, n_members, seed):
    result = fit(*synthetic(alpha, n_members, seed), n_members)
    assert result.alpha == pytest.approx(alpha, rel=0.15)
    assert result.correction.startswith(f'1/{n_members} subtracted')
    assert result.n_frames == 400
    assert result.n_atoms == 800


def test_small_committees_are_not_corrected():
    dataset, evaluation = synthetic(1.0, 2, 0, n_frames=2000)
    result = fit(dataset, evaluation, 2)
    assert result.alpha == pytest.approx(np.sqrt(1 + 1 / 2), rel=0.05)
    assert result.correction.startswith('none: 2 members')


def test_the_uncertainty_of_one_model_is_calibrated_without_correction():
    """With a truth ``alpha`` times wider than the law that the model gives, about a mean that is known exactly."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.05, 0.5, (800, 1))
    dataset = Configurations.from_atoms(
        silicon(400, 0), role='calibration', status='labelled', energy=np.zeros(400),
        forces=2.5 * sigma * rng.normal(size=(800, 3)),
    )  # fmt: skip
    evaluation = evaluation_of(dataset, np.zeros((400, 1)), n_members=1, forces_std=sigma[:, 0])
    result = fit(dataset, evaluation, 1)
    assert result.alpha == pytest.approx(2.5, rel=0.05)
    assert result.coverage == pytest.approx(0.683, abs=0.03)
    assert result.correction.startswith('none: the uncertainty is that of one model')


def test_correction_is_not_applied_where_it_would_leave_nothing():
    dataset, evaluation = synthetic(0.1, 4, 0)
    result = fit(dataset, evaluation, 4)
    assert result.alpha == pytest.approx(0.5, rel=0.1)
    assert result.correction.startswith('none: the errors')


def test_figures():
    dataset, evaluation = synthetic(3.0, 8, 1)
    result = fit(dataset, evaluation, 8)
    errors = evaluation.forces - dataset.forces
    assert result.force_rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert result.coverage == pytest.approx(0.683, abs=0.03)
    assert result.spearman is not None
    assert result.spearman > 0.5
    assert result.lower == pytest.approx(1.5 * result.force_rmse)
    assert result.upper == pytest.approx(15 * result.force_rmse)
    assert result.thresholds == Thresholds(result.lower, result.upper)
    assert result.expected_errors(np.array([0.0, 2.0])).tolist() == [0.0, 2 * result.alpha]


def test_uses_labelled_calibration_frames_alone():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=40)
    expected = fit(dataset.take(range(10)), evaluation, 4)
    role = ['calibration'] * 20 + ['test'] * 10 + ['train'] * 10
    status = ['labelled'] * 10 + ['rejected'] * 5 + ['unlabelled'] * 5 + ['labelled'] * 20
    mixed = dataset.with_columns(role=role, status=status)
    assert fit(mixed, evaluation, 4) == expected
    order = np.random.default_rng(0).permutation(40)
    shuffled = fit(mixed, evaluation.take(order), 4)
    assert shuffled.alpha == pytest.approx(expected.alpha, rel=1e-12)
    unseen = fit(dataset, evaluation.take(range(10)), 4)  # frames without an evaluation are left out
    assert unseen == expected


def test_nothing_to_calibrate():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=4)
    options = {'lower_factor': 1.5, 'upper_factor': 10.0}
    assert calibrate(dataset.with_columns(role=['test'] * 4), evaluation, **options, n_members=4) is None
    unknown = evaluation.with_columns(forces_std=np.full(len(evaluation.forces_std), np.nan))
    assert calibrate(dataset, unknown, **options, n_members=1) is None
    assert calibrate(Configurations.empty(), evaluation, **options, n_members=4) is None


def test_dictionary_round_trip():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=4)
    result = fit(dataset, evaluation, 4)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert Calibration.from_dict(json.loads(text)) == result
    assert Thresholds.from_dict(json.loads(json.dumps(result.thresholds.to_dict()))) == result.thresholds


def test_refusals():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=4)
    frozen = evaluation_of(dataset, np.zeros((4, 1)), forces_std=np.zeros(8))
    with pytest.raises(ValueError, match='agree to the last bit on all 4 calibration frames'):
        fit(dataset, frozen, 4)
    seen = evaluation_of(dataset, np.zeros((4, 1)), forces=dataset.forces, forces_std=np.ones(8))
    with pytest.raises(ValueError, match='were they trained on'):
        fit(dataset, seen, 4)
    with pytest.raises(ValueError, match='not finite'):
        fit(dataset, evaluation_of(dataset, np.zeros((4, 1))), 4)
    with pytest.raises(ValueError, match='`upper_factor` must be a number greater than 1'):
        fit(dataset, evaluation, 4, upper_factor=0.5)
    with pytest.raises(ValueError, match='`upper` must be a number greater than 2'):
        Thresholds(lower=2.0, upper=1.0)
