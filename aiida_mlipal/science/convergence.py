"""Convergence: whether a campaign has reached its targets, has nothing left to ask, or has spent its budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.metrics import FrameErrors, pooled_rmse, upper_bound
from aiida_mlipal.science.plain import to_plain
from aiida_mlipal.science.settings import check_integer, check_number

__all__ = ('OUTCOMES', 'BudgetSettings', 'ConvergenceSettings', 'Verdict', 'judge')

OUTCOMES = ('continue', 'converged', 'no_candidates', 'budget_labels', 'budget_iterations', 'budget_wall_time')


@dataclass(frozen=True)
class ConvergenceSettings:
    """When a campaign is good enough."""

    force_rmse: float = 0.1  #: eV/Å per component, on test frames, its upper confidence bound
    energy_mae_per_atom: float = 0.005  #: eV, likewise
    uncertain_share: float = 0.1  #: of the visited frames; 1 leaves this target out (for a single model)
    n_test_frames: int = 20  #: the fewest test frames that count as evidence
    times_in_a_row: int = 2
    confidence: float = 0.9

    def __post_init__(self) -> None:
        check_number('force_rmse', self.force_rmse, above=0)
        check_number('energy_mae_per_atom', self.energy_mae_per_atom, above=0)
        check_number('uncertain_share', self.uncertain_share, within=(0, 1))
        check_integer('n_test_frames', self.n_test_frames, at_least=2)
        check_integer('times_in_a_row', self.times_in_a_row)
        check_number('confidence', self.confidence, within=(0.5, 0.999))


@dataclass(frozen=True)
class BudgetSettings:
    """When a campaign stops in any case. None means no limit."""

    max_labels: int | None = None
    max_iterations: int = 5
    max_wall_time_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_labels is not None:
            check_integer('max_labels', self.max_labels)
        check_integer('max_iterations', self.max_iterations)
        if self.max_wall_time_s is not None:
            check_number('max_wall_time_s', self.max_wall_time_s, above=0)


@dataclass(frozen=True)
class Verdict:
    """What :func:`judge` found."""

    outcome: str  #: one of :data:`OUTCOMES`
    iteration: int
    below_target: int  #: times in a row, this one included
    reasons: list[str]
    errors: dict[str, float | int | None]
    uncertain_share: float | None
    n_labels: int
    targets: dict[str, float | int]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON-safe values; NaN becomes None."""
        result: dict[str, Any] = to_plain(vars(self))
        return result


def _window(errors: FrameErrors, n_frames: int) -> FrameErrors:
    """Return the last ``n_frames`` rows, and with them the earlier rows of their trajectories."""
    if len(errors) <= n_frames:
        return errors
    late = np.arange(len(errors)) >= len(errors) - n_frames
    return errors.take(late | np.isin(errors.trajectory, errors.trajectory[late]))


def _bounded(
    values: NDArray[np.float64],
    failed: NDArray[np.bool_],
    penalty: float,
    weights: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float],
    trajectory: NDArray[np.str_],
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Return a statistic and its upper bound; a failed label takes the penalty, or the largest value if that is more.

    A failed label is an error above target of unknown size. The penalty stands for twice the target, so that a rare
    failure costs some of the margin and more than a quarter of failures (of an RMSE) rule convergence out.
    """
    if len(values) == 0:
        return float('nan'), float('nan')
    observed = values[~failed]
    filled = np.where(failed, max(penalty, float(observed.max()) if len(observed) else 0.0), values)
    rows = np.column_stack((filled, weights))
    bound = upper_bound(rows, trajectory, statistic, confidence=confidence, seed=seed)
    return statistic(rows), bound


def _weighted_mean(rows: NDArray[np.float64]) -> float:
    return float(np.average(rows[:, 0], weights=rows[:, 1]))


def _error_figures(errors: FrameErrors, settings: ConvergenceSettings, seed: int) -> dict[str, float | int | None]:
    atoms, ones = errors.n_atoms.astype(float), np.ones(len(errors))
    common = (errors.trajectory, settings.confidence, seed)
    force, force_upper = _bounded(
        errors.force_sq_error, errors.failed, (2 * settings.force_rmse) ** 2, atoms, pooled_rmse, *common
    )
    energy, energy_upper = _bounded(
        np.abs(errors.energy_error_per_atom),
        errors.failed,
        2 * settings.energy_mae_per_atom,
        ones,
        _weighted_mean,
        *common,
    )
    return {
        'force_rmse': force,
        'force_rmse_upper': force_upper,
        'energy_mae': energy,
        'energy_mae_upper': energy_upper,
        'n_frames': len(errors),
        'n_failed': int(errors.failed.sum()),
        'n_trajectories': len(np.unique(errors.trajectory)),
    }


def _compare(
    figures: dict[str, Any], uncertain_share: float | None, settings: ConvergenceSettings
) -> tuple[bool, list[str]]:
    """Return whether all targets are met, with a sentence on each."""
    reasons = []
    below = figures['n_frames'] >= settings.n_test_frames
    if not below:
        reasons.append(f'{figures["n_frames"]} of the {settings.n_test_frames} test frames needed are there.')
    if figures['n_failed']:
        reasons.append(f'{figures["n_failed"]} test frames have no label and count as errors above target.')
    for name, target, label, unit in (
        ('force_rmse', settings.force_rmse, 'force RMSE', 'eV/Å'),
        ('energy_mae', settings.energy_mae_per_atom, 'energy MAE', 'eV/atom'),
    ):
        value, upper = figures[name], figures[f'{name}_upper']
        if np.isnan(upper):
            below = False
            reasons.append(f'The {label} has no upper bound yet: that takes test frames of two trajectories or more.')
        else:
            met = upper < target
            below = below and met
            reasons.append(
                f'The {label} on {figures["n_frames"]} test frames is {value:.4g} {unit}, with '
                f'{settings.confidence:.0%} confidence at most {upper:.4g}: '
                f'{"below" if met else "not below"} the target of {target:g}.'
            )
    if settings.uncertain_share < 1:
        if uncertain_share is None:
            below = False
            reasons.append('The share of uncertain visited frames is not known yet: that takes a calibrated committee.')
        else:
            met = uncertain_share <= settings.uncertain_share
            below = below and met
            reasons.append(
                f'Of the visited frames {uncertain_share:.1%} are uncertain, {"within" if met else "above"} the '
                f'target of {settings.uncertain_share:.1%}.'
            )
    return below, reasons


def judge(
    errors: FrameErrors,
    *,
    uncertain_share: float | None,
    previous_below_target: int,
    iteration: int,
    n_labels: int,
    n_selected: int,
    n_candidates: int,
    elapsed_s: float | None,
    settings: ConvergenceSettings,
    budget: BudgetSettings,
    seed: int,
) -> Verdict:
    """Return whether the campaign goes on, and why.

    :param errors: of test frames, most recent last; other roles are ignored. The last ``n_test_frames`` count, with
        the earlier frames of their trajectories.
    :param uncertain_share: of all visited frames, before any filter; None if there is no trust window.
    :param previous_below_target: ``below_target`` of the previous verdict, 0 at first.
    :param iteration: the one that just ended, counted from 0.
    :param n_labels: computed so far, rejected ones included.
    :param n_selected: frames selected for training in this iteration, without the random stream.
    :param n_candidates: frames that were worth a label and were not picked.
    :param elapsed_s: wall time since the start, or None; a clock is an input, so that the verdict can be repeated.
    """
    window = _window(errors.take(errors.role == 'test'), settings.n_test_frames)
    figures = _error_figures(window, settings, seed)
    below, reasons = _compare(figures, uncertain_share, settings)
    count = previous_below_target + 1 if below else 0
    if below:
        reasons.append(f'All targets are met, {count} of {settings.times_in_a_row} times in a row.')
    outcome = 'continue'
    if count >= settings.times_in_a_row:
        outcome = 'converged'
    elif n_selected == 0 and n_candidates == 0:
        outcome = 'no_candidates'
        reasons.append('No visited frame is worth a label: the model is sure of all of them, or knows them.')
    elif budget.max_labels is not None and n_labels >= budget.max_labels:
        outcome = 'budget_labels'
        reasons.append(f'{n_labels} labels are computed, the budget is {budget.max_labels}.')
    elif iteration + 1 >= budget.max_iterations:
        outcome = 'budget_iterations'
        reasons.append(f'{iteration + 1} iterations are done, the budget is {budget.max_iterations}.')
    elif budget.max_wall_time_s is not None and elapsed_s is not None and elapsed_s >= budget.max_wall_time_s:
        outcome = 'budget_wall_time'
        reasons.append(f'{elapsed_s:.0f} s have passed, the budget is {budget.max_wall_time_s:.0f} s.')
    targets: dict[str, float | int] = dict(vars(settings))
    return Verdict(
        outcome=outcome,
        iteration=iteration,
        below_target=count,
        reasons=reasons,
        errors=figures,
        uncertain_share=uncertain_share,
        n_labels=n_labels,
        targets=targets,
    )
