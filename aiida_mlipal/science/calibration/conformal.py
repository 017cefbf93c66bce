"""Split-conformal intervals for force errors: coverage without a law of errors, from frames that were never trained on.

The score of a frame is its actual error over the expected one. Frames of a trajectory resemble each other and are not
exchangeable, trajectories are; so a trajectory counts once, however many frames it has (Lee, Barber and Willett,
"Distribution-free inference with hierarchical data", arXiv 2306.06342, "hierarchical conformal prediction"): a random
frame of a new trajectory is covered with at least the probability asked for. Where old iterations weigh less, the
guarantee holds up to the drift between iterations (Barber, Candès, Ramdas and Tibshirani, Ann. Stat. 51, 816 (2023)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.calibration.maps import MIN_FRAMES
from aiida_mlipal.science.calibration.metrics import LEVELS

__all__ = ('Intervals', 'fit_intervals', 'quantile')


def quantile(
    scores: NDArray[np.float64], trajectory: NDArray[np.str_], weights: NDArray[np.float64], level: float
) -> float | None:
    """Return what a frame of a new trajectory stays below with probability ``level``, or None if no bound is known.

    None is not a failure but the finite-sample answer: the new trajectory, which may be worse than all that were seen,
    has a weight of one among those seen. Without weights a bound takes level / (1 - level) trajectories: 9 for 90 %,
    19 for 95 %.

    :param scores: (F,)
    :param trajectory: (F,) names.
    :param weights: (F,) of the trajectory of each frame, at most 1.
    """
    names, member, counts = np.unique(trajectory, return_inverse=True, return_counts=True)
    mass = weights / counts[member]
    order = np.argsort(scores, kind='stable')
    below = np.cumsum(mass[order]) / (mass.sum() + 1)
    reached = np.flatnonzero(below >= level - 1e-12)
    if len(names) == 0 or len(reached) == 0 or not np.isfinite(scores[order[reached[0]]]):
        return None
    return float(scores[order[reached[0]]])


@dataclass(frozen=True)
class Intervals:
    """Factors on the expected error of a frame, one for each level; None where there are too few trajectories."""

    pooled: list[float | None]  #: in the order of :data:`LEVELS`
    compositions: dict[str, list[float | None]]  #: of those with enough frames of their own

    def factors(self, level: float, composition: Sequence[str]) -> NDArray[np.float64]:
        """Return the factor for frames of each ``composition``, infinite where there is no bound, shape ``(F,)``."""
        column = LEVELS.index(level)
        found = [self.compositions.get(name, self.pooled)[column] for name in composition]
        return np.array([np.inf if factor is None else factor for factor in found], dtype=float)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Intervals:
        """Read what ``dataclasses.asdict`` wrote."""
        return cls(pooled=list(mapping['pooled']), compositions=dict(mapping['compositions']))


def fit_intervals(
    scores: NDArray[np.float64],
    trajectory: NDArray[np.str_],
    weights: NDArray[np.float64],
    composition: NDArray[np.str_],
) -> Intervals:
    """Return the intervals of all levels, for all frames and for each composition with :data:`MIN_FRAMES` or more."""

    def at_all_levels(rows: NDArray[np.bool_]) -> list[float | None]:
        return [quantile(scores[rows], trajectory[rows], weights[rows], level) for level in LEVELS]

    names, counts = np.unique(composition, return_counts=True)
    frequent = names[counts >= MIN_FRAMES].tolist() if len(names) > 1 else []
    return Intervals(
        pooled=at_all_levels(np.ones(len(scores), dtype=bool)),
        compositions={name: at_all_levels(composition == name) for name in frequent},
    )
