"""From what was visited to the candidate pool: decorrelated, then thinned, with account of what was thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.decorrelation import statistical_inefficiency
from aiida_mlipal.science.descriptors import standardise
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.exploration_plans import DynamicsSettings, Plan
from aiida_mlipal.science.strategies.distance import FarthestPoint
from aiida_mlipal.science.strategies.greedy import take_greedily

__all__ = ('QUANTILES', 'quantiles', 'thin')

QUANTILES: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
#: Origins of the candidates that are never thrown away.
_ALWAYS: Final = ('last_safe', 'first_unsafe', 'saddle')


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the :data:`QUANTILES` of some values; none of none."""
    return {f'{q:g}': float(np.quantile(values, q)) for q in QUANTILES} if len(values) else {}


def _strides(
    frames: Configurations, table: NDArray[np.float64], plans: Sequence[Plan]
) -> dict[str, tuple[int, NDArray[np.int64]]]:
    """Return the stride of each trajectory in time, in saved frames, and its rows in the order of steps."""
    in_time = [plan.label for plan in plans if isinstance(plan, DynamicsSettings)]
    found = {}
    for name in np.unique(frames.trajectory[np.isin(frames.plan, in_time)]).tolist():
        rows = np.flatnonzero(frames.trajectory == name)
        rows = rows[np.argsort(frames.step[rows], kind='stable')]
        # Rounded before it is rounded up, so that the last digits of a descriptor change nothing.
        found[name] = int(np.ceil(round(statistical_inefficiency(table[rows]), 6))), rows
    return found


def thin(
    frames: Configurations, evaluation: Evaluation, plans: Sequence[Plan], max_candidates: int
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return the rows of the pool in frame order, and the statistics of what was thrown away.

    The whole random stream stays, and of the candidates, in this order: those that are marked (the last safe and the
    first unsafe frame, a saddle), whatever their number; of each trajectory in time one per correlation time of its
    descriptors, counted from its end; of these the farthest from all others, up to ``max_candidates`` in all.

    :param evaluation: of ``frames``, row by row.
    """
    table = evaluation.descriptors
    if table.size:
        table, _ = standardise(table, table[:0])
    is_candidate = frames.role == 'candidate'
    always = is_candidate & np.isin(frames.origin, _ALWAYS)
    strides = _strides(frames, table, plans)
    correlated = np.zeros(len(frames), dtype=bool)
    for stride, rows in strides.values():
        correlated[rows] = True
        correlated[rows[::-1][::stride]] = False
    correlated &= is_candidate & ~always
    left = np.flatnonzero(is_candidate & ~correlated)
    if len(left) > max_candidates:
        first = np.flatnonzero(always[left])
        scorer = FarthestPoint(table[left], np.zeros((0, table.shape[1])))
        identity = np.argsort(np.argsort(frames.frame_id[left]))
        left = left[take_greedily(scorer, max_candidates, identity, first=first.tolist(), n_first=len(first)).order]
    kept = ~is_candidate
    kept[left] = True
    thinned = ~kept & ~correlated
    uncertainties = evaluation.max_forces_std
    report = {
        'strides': {name: stride for name, (stride, _) in strides.items()},
        'n_correlated': int(correlated.sum()),
        'n_thinned': int(thinned.sum()),
        'correlated_uncertainty_quantiles': quantiles(uncertainties[correlated]),
        'thinned_uncertainty_quantiles': quantiles(uncertainties[thinned]),
    }
    return np.flatnonzero(kept), report
