"""Which rule for k-points an explicit mesh belongs to.

A label engine derives the mesh of a frame from a distance :math:`d` and the reference cell: along each periodic
direction :math:`n_i = \\lceil b_i / d \\rceil` points, :math:`b_i` being the length of the reciprocal vector. A
finished calculation has a mesh and no rule, but its mesh and cell admit an interval of distances,
:math:`\\max_i b_i / n_i \\le d < \\min_i b_i / (n_i - 1)`. Calculations whose intervals share a distance follow one
rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

__all__ = ('Interval', 'common_distances', 'distance_interval', 'roundest')

#: Distances from the first (included) to the second (excluded), in 1/Å.
Interval = tuple[float, float]

#: The tolerance with which engines round b/d up.
_TOLERANCE: Final = 1e-8


def distance_interval(cell: ArrayLike, pbc: ArrayLike, mesh: Sequence[int]) -> Interval | None:
    """Return the distances (1/Å) from which an engine would derive ``mesh``, or ``None`` if there are none.

    :param cell: (3, 3) reference cell, Å, one vector per row.
    :param pbc: (3,) periodic directions; along the others a mesh of one point is expected.
    """
    periodic = np.asarray(pbc, dtype=bool)
    if any(count != 1 for count in np.asarray(mesh)[~periodic]):
        return None
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(np.asarray(cell, dtype=float)), axis=0)
    low, high = 0.0, math.inf
    for length, count in zip(lengths[periodic].tolist(), np.asarray(mesh)[periodic].tolist(), strict=True):
        low = max(low, length / (count + 0.5 * _TOLERANCE))  # round-off must not tip it over
        if count > 1:
            high = min(high, length / (count - 1 + _TOLERANCE))
    return (low, high) if low < high else None


def roundest(low: float, high: float) -> float:
    """Return the number with the fewest digits in ``low <= x < high``, the smallest of them, for people to read."""
    if not 0 <= low < high:
        raise ValueError(f'expected 0 <= low < high, got {low} and {high}.')
    top = min(high, max(2 * low, 1.0) + 1.0)
    for exponent in range(math.floor(math.log10(top)), -18, -1):
        step = 10.0**exponent
        candidate = float(f'{max(1, math.ceil(low / step)) * step:.15g}')
        if low <= candidate < high:
            return candidate
    return low


def common_distances(intervals: Sequence[Interval]) -> list[float]:
    """Return the fewest distances so that each interval holds one of them, in increasing order.

    Sorted by their upper ends, an interval that holds no point yet opens a group with all that reach into it; the point
    is the roundest number that they share (the greedy solution of interval stabbing, which is optimal).
    """
    points: list[float] = []
    waiting = sorted(set(intervals), key=lambda interval: (interval[1], interval[0]))
    while waiting:
        end = waiting[0][1]
        group = [interval for interval in waiting if interval[0] < end]
        points.append(roundest(max(low for low, _ in group), end))
        waiting = [interval for interval in waiting if not interval[0] <= points[-1] < interval[1]]
    return sorted(points)
