from __future__ import annotations

import json

import numpy as np
import pytest

from aiida_mlipal.science.convergence import OUTCOMES, BudgetSettings, ConvergenceSettings, judge
from aiida_mlipal.science.metrics import FrameErrors
from aiida_mlipal.science.settings import from_dict

GOALS = ConvergenceSettings()


def errors_of(
    rmse: float, n: int = 24, *, n_failed: int = 0, n_trajectories: int = 8, energy: float = 1e-3
) -> FrameErrors:
    """Frames with scattered errors of about ``rmse``; the first ``n_failed`` have no label."""
    rng = np.random.default_rng(0)
    failed = np.arange(n) < n_failed
    square = np.where(failed, np.nan, rmse**2 * rng.uniform(0.8, 1.2, n))
    return FrameErrors(
        frame_id=np.array([f'f{i:03d}' for i in range(n)]),
        role=np.full(n, 'test'),
        trajectory=np.array([f'i00-r{i % n_trajectories:03d}' for i in range(n)]),
        failed=failed,
        n_atoms=np.full(n, 8),
        energy_error_per_atom=np.where(failed, np.nan, energy * rng.choice([-1, 1], n)),
        force_sq_error=square,
        force_abs_error=np.sqrt(square),
        force_max_error=np.sqrt(square),
    )


def verdict(errors: FrameErrors | None = None, *, goals=GOALS, budget=None, **kwargs):
    options = {
        'uncertain_share': 0.02, 'previous_below_target': 0, 'iteration': 1, 'n_labels': 50, 'n_selected': 5,
        'n_candidates': 30, 'elapsed_s': 100.0, **kwargs,
    }  # fmt: skip
    errors = errors_of(0.05) if errors is None else errors
    return judge(errors, **options, settings=goals, budget=budget or BudgetSettings(), seed=3)


def test_twice_in_a_row():
    first = verdict()
    assert (first.outcome, first.below_target) == ('continue', 1)
    second = verdict(previous_below_target=first.below_target)
    assert (second.outcome, second.below_target) == ('converged', 2)
    assert verdict(errors_of(0.5), previous_below_target=1).below_target == 0


@pytest.mark.parametrize(
    ('errors', 'share', 'reason'),
    [
        (errors_of(0.2), 0.02, 'force RMSE .* not below the target of 0.1'),
        (errors_of(0.05, energy=0.01), 0.02, 'energy MAE .* not below the target of 0.005'),
        (errors_of(0.05), 0.3, '30.0% are uncertain, above the target'),
        (errors_of(0.05), None, 'share of uncertain visited frames is not known'),
        (errors_of(0.05, n=19), 0.02, '19 of the 20 test frames needed'),
        (errors_of(0.05, n_trajectories=1), 0.02, 'two trajectories or more'),
        (errors_of(0.05, n=0), 0.02, '0 of the 20 test frames needed'),
    ],
)
def test_each_target_alone_holds_convergence_back(errors, share, reason):
    result = verdict(errors, uncertain_share=share, previous_below_target=5)
    assert (result.outcome, result.below_target) == ('continue', 0)
    assert any(__import__('re').search(reason, line) for line in result.reasons)


def test_it_is_the_bound_that_must_be_below():
    errors = errors_of(0.0995)
    result = verdict(errors)
    assert result.errors['force_rmse'] < 0.1 < result.errors['force_rmse_upper']
    assert result.below_target == 0


def test_failed_labels_count_as_errors_above_target():
    clean, one, many = (verdict(errors_of(0.05, n_failed=n)) for n in (0, 1, 8))
    assert clean.errors['force_rmse'] < one.errors['force_rmse'] < many.errors['force_rmse']
    assert (one.below_target, many.below_target) == (1, 0)
    assert many.errors['force_rmse'] > GOALS.force_rmse
    assert 'have no label and count as errors above target' in ' '.join(one.reasons)
    everything = verdict(errors_of(0.05, n_failed=24))
    assert everything.errors['force_rmse'] == pytest.approx(2 * GOALS.force_rmse)


def test_only_recent_test_frames_count_with_their_trajectories():
    old, new = errors_of(5.0, n=30), errors_of(0.05, n=24)
    renamed = FrameErrors(**{**vars(old), 'trajectory': np.array([f'old{i // 10}' for i in range(30)])})
    result = verdict(FrameErrors.concatenate([renamed, new]))
    assert result.errors['n_frames'] == 24  # 20, and the 4 others of the same trajectories
    assert result.below_target == 1
    other_role = FrameErrors(**{**vars(old), 'role': np.full(30, 'calibration')})
    assert verdict(FrameErrors.concatenate([new, other_role])).errors == verdict(new).errors


def test_a_single_model_leaves_the_share_out():
    result = verdict(goals=ConvergenceSettings(uncertain_share=1.0), uncertain_share=None)
    assert result.below_target == 1


@pytest.mark.parametrize(
    ('changes', 'budget', 'outcome'),
    [
        ({'n_selected': 0, 'n_candidates': 0}, BudgetSettings(), 'no_candidates'),
        ({'n_selected': 0, 'n_candidates': 3}, BudgetSettings(), 'continue'),
        ({'n_labels': 60}, BudgetSettings(max_labels=60), 'budget_labels'),
        ({'n_labels': 59}, BudgetSettings(max_labels=60), 'continue'),
        ({'iteration': 4}, BudgetSettings(), 'budget_iterations'),
        ({'iteration': 3}, BudgetSettings(), 'continue'),
        ({'elapsed_s': 60.0}, BudgetSettings(max_wall_time_s=60), 'budget_wall_time'),
        ({'elapsed_s': None}, BudgetSettings(max_wall_time_s=60), 'continue'),
        ({'iteration': 4, 'previous_below_target': 1}, BudgetSettings(), 'converged'),
    ],
)
def test_other_ends(changes, budget, outcome):
    result = verdict(budget=budget, **changes)
    assert result.outcome == outcome
    assert result.outcome in OUTCOMES
    assert result.reasons


def test_dictionary_is_plain_and_repeatable():
    result = verdict(errors_of(0.05, n_trajectories=1), uncertain_share=None)
    plain = result.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain['errors']['force_rmse_upper'] is None
    assert {
        'outcome',
        'iteration',
        'below_target',
        'reasons',
        'errors',
        'uncertain_share',
        'n_labels',
        'targets',
    } == set(plain)
    assert plain['targets']['force_rmse'] == 0.1
    assert verdict(errors_of(0.05)).to_dict() == verdict(errors_of(0.05)).to_dict()


@pytest.mark.parametrize(
    ('cls', 'settings', 'message'),
    [
        (BudgetSettings, {'max_labels': -5}, '`max_labels` must be an integer of at least 1, got -5'),
        (BudgetSettings, {'max_labels': 0}, '`max_labels`'),
        (BudgetSettings, {'max_iterations': 0}, '`max_iterations` must be an integer of at least 1'),
        (BudgetSettings, {'max_wall_time_s': -1.0}, '`max_wall_time_s` must be a number greater than 0, got -1.0'),
        (BudgetSettings, {'max_label': 5}, r'Did you mean `max_labels`\?'),
        (ConvergenceSettings, {'force_rmse': 0}, '`force_rmse` must be a number greater than 0'),
        (ConvergenceSettings, {'uncertain_share': 1.5}, '`uncertain_share` must be a number from 0 to 1'),
        (ConvergenceSettings, {'confidence': 1.0}, '`confidence`'),
        (ConvergenceSettings, {'n_test_frames': 1}, '`n_test_frames` must be an integer of at least 2'),
    ],
)
def test_bad_settings(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(cls, settings)
