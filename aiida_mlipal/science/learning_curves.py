"""Learning curves, and how many labels one way of picking frames saves against another at equal error.

One model follows the other, each trained on more labels, all judged on the same test frames. Where two curves reach the
same error is read off between their points; how sure that is follows from test frames (or repeated runs) drawn anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import norm, t

from aiida_mlipal.science.plain import to_plain
from aiida_mlipal.science.settings import check_number

__all__ = ('LearningCurve', 'Saving', 'label_saving', 'labels_needed')


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Errors of K models, by the number of labels that were paid for each, on the same F test frames (or in F runs)."""

    n_labels: NDArray[np.int64]  #: (K,) ascending
    square_errors: NDArray[np.float64]  #: (K, F) mean square error of each model on each frame

    def __post_init__(self) -> None:
        shape = self.square_errors.shape
        if len(shape) != 2 or shape[0] != len(self.n_labels) or 0 in shape:
            raise ValueError(
                f'a learning curve of {len(self.n_labels)} models has errors of shape {shape}, expected one row for '
                'each model and one column for each test frame.'
            )
        if np.any(np.diff(self.n_labels) < 0) or np.any(np.asarray(self.n_labels) < 1):
            raise ValueError(f'the numbers of labels are {np.asarray(self.n_labels).tolist()}, expected 1 or more, '
                             'ascending.')  # fmt: skip

    def rmse(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the root mean square error of each model, ``(K,)``, or ``(R, K)`` for rows of weights ``(R, F)``."""
        total = weights.sum(axis=-1, keepdims=True)
        result: NDArray[np.float64] = np.sqrt(weights @ self.square_errors.T / total)
        return result


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Labels that two ways of picking need for the same error. A ratio above 1 is a saving, below 1 a loss."""

    target: float  #: the error, in the unit of the curves
    n_strategy: float  #: labels that the strategy needs for it; infinite if it was not reached
    n_reference: float  #: labels that the reference needs
    ratio: float  #: reference over strategy; not a number if neither reached the target
    low: float  #: the confidence interval of the ratio; not a number if there is only one cluster
    high: float
    confidence: float
    n_clusters: int  #: independent trajectories or runs that were drawn anew

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON-safe values; what is not finite becomes None."""
        result: dict[str, Any] = to_plain(asdict(self))
        return result


def labels_needed(n_labels: ArrayLike, errors: ArrayLike, target: float) -> float:
    """Return how many labels it takes to bring the error down to ``target``, between the points of a learning curve.

    Noise makes curves rise here and there; the one that is read is the nearest (least squares in the logarithm) that
    never rises (isotonic regression; Barlow et al., Statistical Inference under Order Restrictions (1972)). Between its
    points, errors follow a power law, a straight line if both axes are logarithmic.

    :param n_labels: (K,) ascending.
    :param errors: (K,) of the models trained on them.
    :returns: infinity if the error never falls that low; the first number if it is that low from the start.
    """
    sizes = np.log(np.asarray(n_labels, dtype=float))
    values = np.log(np.maximum(np.asarray(errors, dtype=float), np.finfo(float).tiny))
    falling = isotonic_regression(values, increasing=False).x
    wanted = np.log(target) + 1e-12  # the last error itself is reached
    below = np.flatnonzero(falling <= wanted)
    if not len(below):
        return float('inf')
    last = int(below[0])
    if last == 0:
        return float(np.asarray(n_labels)[0])
    share = (falling[last - 1] - wanted) / (falling[last - 1] - falling[last])
    return float(np.exp(sizes[last - 1] + share * (sizes[last] - sizes[last - 1])))


def _ratio(
    curves: Sequence[LearningCurve], errors: Sequence[NDArray[np.float64]], target: float | None
) -> tuple[float, float, float]:
    """Return the target and what strategy and reference need for it."""
    if target is None:
        lowest = [isotonic_regression(np.log(np.maximum(row, np.finfo(float).tiny)), increasing=False).x[-1]
                  for row in errors]  # fmt: skip
        target = float(np.exp(max(lowest)))
    strategy, reference = (labels_needed(c.n_labels, row, target) for c, row in zip(curves, errors, strict=True))
    return target, strategy, reference


def label_saving(
    strategy: LearningCurve,
    reference: LearningCurve,
    *,
    weights: ArrayLike,
    clusters: ArrayLike,
    target: float | None = None,
    confidence: float = 0.9,
    seed: int,
    n_resamples: int = 1000,
) -> Saving:
    """Return how many labels ``strategy`` needs against ``reference`` for the same error, with a confidence interval.

    The interval is a bootstrap of the logarithm of the ratio. Whole clusters (test trajectories, whose frames resemble
    each other; or repeated runs) are drawn with replacement, the same for both curves, which are thereby compared in
    pairs. Deviations are widened by sqrt(G/(G-1)) t/z, with the quantiles of Student's law with G - 1 degrees of
    freedom and of the normal law: few clusters show too little of their spread (Hesterberg, Am. Stat. 69, 371 (2015)).
    A draw in which neither curve reaches the target counts at both ends. The luck of a training, which is the same in
    all draws of test trajectories, is not in the interval.

    :param weights: (F,) of the columns of both curves, for example numbers of atoms.
    :param clusters: (F,) names.
    :param target: the error to be reached; the lowest that both reach, if not given, found anew in each draw.
    :param confidence: of the two-sided interval.
    :raises ValueError: if the curves are not over the same frames.
    """
    check_number('confidence', confidence, within=(0.5, 0.999))
    frame_weights, names = np.asarray(weights, dtype=float), np.asarray(clusters)
    curves = (strategy, reference)
    widths = [curve.square_errors.shape[1] for curve in curves]
    if set(widths) != {len(frame_weights)} or len(names) != len(frame_weights):
        raise ValueError(
            f'the curves are over {widths[0]} and {widths[1]} frames, with {len(frame_weights)} weights and '
            f'{len(names)} clusters: all four numbers must be the same.'
        )
    found, *needed = _ratio(curves, [curve.rmse(frame_weights) for curve in curves], target)
    _, membership = np.unique(names, return_inverse=True)
    n_clusters = int(membership.max()) + 1
    low = high = float('nan')
    ratio = _divide(needed[1], needed[0])
    if n_clusters > 1 and np.isfinite(ratio) and ratio > 0:
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
        drawn = counts[:, membership] * frame_weights
        draws = []
        for rows in zip(*(curve.rmse(drawn) for curve in curves), strict=True):
            _, first, second = _ratio(curves, rows, target)
            draws.append(_divide(second, first))
        with np.errstate(divide='ignore'):
            logs = np.log(draws)
        tail = (1 - confidence) / 2
        widening = np.sqrt(n_clusters / (n_clusters - 1)) * t.ppf(tail, n_clusters - 1) / norm.ppf(tail)
        ends = []
        for level, missing, side in ((tail, -np.inf, min), (1 - tail, np.inf, max)):
            value = float(np.quantile(np.where(np.isnan(logs), missing, logs), level, method='nearest'))
            ends.append(float(ratio * np.exp(side(value - np.log(ratio), 0.0) * widening)))
        low, high = ends
    return Saving(
        target=found,
        n_strategy=needed[0],
        n_reference=needed[1],
        ratio=ratio,
        low=low,
        high=high,
        confidence=confidence,
        n_clusters=n_clusters,
    )


def _divide(reference: float, strategy: float) -> float:
    """Return the ratio: infinite or zero if only one was reached, not a number if neither was."""
    if np.isinf(reference) and np.isinf(strategy):
        return float('nan')
    return reference / strategy
