"""Greedy choices of diverse rows from a table of descriptors.

Rows are looked at in the order of their identities and scores are quantised before they are compared, so the same
table gives the same picks whatever the order of its rows and the round-off of the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular

from aiida_mlipal.science.duplicates import nearest_distance

__all__ = ('QUANTUM', 'RIDGE', 'Picks', 'farthest_point', 'max_det', 'standardise')

#: Scores closer than this are ties. Round-off between processors is some 1e-13 of a score of order one.
QUANTUM: Final = 1e-9
#: Variance of the noise in the kernel, against a typical squared descriptor of 1.
RIDGE: Final = 1e-3
#: Spread below which a feature is noise of a single-precision model, relative to the largest descriptor.
_NOISE: Final = 1e-5


@dataclass(frozen=True, eq=False)
class Picks:
    """What a greedy choice did."""

    order: NDArray[np.int64]  #: (k,) rows in the order they were picked
    gain: NDArray[np.float64]  #: (N,) score of a row when it was picked, or what it would still add at the end


def standardise(
    descriptors: NDArray[np.float64], reference: NDArray[np.float64], fitted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both tables with each feature centred and divided by its spread, scaled to a mean squared row of 1.

    Mean and spread are over the reference and the pool together. A feature that varies no more than single precision
    allows becomes zero. The result is rounded to 1e-6, so that the last digits of a descriptor change nothing.

    :param descriptors: (N, D) of the pool.
    :param reference: (R, D) of the training set; R may be 0.
    :param fitted: (N,) mask of the pool rows that mean and spread are taken from; all, if not given.
    """
    n_features = descriptors.shape[1] if descriptors.ndim == 2 else 0
    reference = reference.reshape(-1, n_features) if reference.size == 0 else reference
    if reference.ndim != 2 or reference.shape[1] != n_features:
        raise ValueError(
            f'the pool has {n_features} descriptors per frame and the training set an array of shape '
            f'{reference.shape}: evaluate both with the same model.'
        )
    rows = np.concatenate((reference, descriptors if fitted is None else descriptors[fitted]))
    if len(rows) == 0 or n_features == 0:
        return np.zeros(descriptors.shape), np.zeros(reference.shape)
    if not np.isfinite(rows).all():
        raise ValueError('a descriptor is not finite: look at the evaluation of the pool and of the training set.')
    # Summed in a fixed order of rows, the mean does not depend on the order of the pool.
    rows = rows[np.lexsort(rows.T[::-1])]
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    used = spread > _NOISE * np.abs(rows).max()
    weight = np.where(used, 1 / np.where(used, spread, 1.0), 0.0) / np.sqrt(max(int(used.sum()), 1))

    def scaled(table: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.round((table - mean) * weight, 6) + 0.0
        return result

    return scaled(descriptors), scaled(reference)


def _greedy(
    scores: Callable[[], NDArray[np.float64]], take: Callable[[int], None], n_rows: int, k: int
) -> tuple[list[int], NDArray[np.float64]]:
    """Take the row of highest quantised score ``k`` times; of equal ones the first."""
    gain, free = np.zeros(n_rows), np.ones(n_rows, dtype=bool)
    order: list[int] = []
    for _ in range(min(k, n_rows)):
        quantised = np.round(scores() / QUANTUM) * QUANTUM
        best = int(np.argmax(np.where(free, quantised, -np.inf)))
        gain[best], free[best] = quantised[best], False
        order.append(best)
        take(best)
    gain[free] = (np.round(scores() / QUANTUM) * QUANTUM)[free]
    return order, gain


def _by_identity(order: list[int], gain: NDArray[np.float64], rows: NDArray[np.int64]) -> Picks:
    """Translate picks among identity-sorted rows to the rows of the caller."""
    original = np.zeros(len(rows))
    original[rows] = gain
    return Picks(order=rows[np.array(order, dtype=np.int64)], gain=original)


def max_det(descriptors: NDArray[np.float64], reference: NDArray[np.float64], k: int, frame_ids: ArrayLike) -> Picks:
    """Pick the ``k`` rows that make the determinant of the kernel of reference and picks largest, one by one.

    The kernel is ``X X^T / RIDGE + 1``. Conditioned on the reference and earlier picks, row x adds
    ``log(1 + x A^-1 x)`` with ``A = RIDGE + sum of x x^T over both`` (D-optimal design; greedy MAP inference of a
    determinantal point process, Chen et al., NeurIPS 2018). Rows are whitened by the Cholesky factor of the
    reference's A once; each pick then updates all residuals at O(N D), so the cost is O(k N D).

    :param descriptors: (N, D), scaled by :func:`standardise`.
    :param reference: (R, D), likewise; R may be 0.
    :param frame_ids: (N,) identities, which break ties.
    """
    rows = np.argsort(np.asarray(frame_ids, dtype=str), kind='stable')
    n_features = descriptors.shape[1]
    information = RIDGE * np.eye(n_features) + reference.reshape(-1, n_features).T @ reference.reshape(-1, n_features)
    factor = np.linalg.cholesky(information)
    whitened = solve_triangular(factor, descriptors[rows].T, lower=True).T

    def scores() -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.log1p(np.einsum('ij,ij->i', whitened, whitened))
        return result

    def take(best: int) -> None:
        row = whitened[best].copy()
        square = float(row @ row)
        if square > 0:
            # Sherman-Morrison, as a symmetric square root: residuals shrink along the picked direction only.
            shrink = (1 - 1 / np.sqrt(1 + square)) / square
            whitened[...] -= np.outer(whitened @ row, shrink * row)

    order, gain = _greedy(scores, take, len(rows), k)
    return _by_identity(order, gain, rows)


def farthest_point(
    descriptors: NDArray[np.float64], reference: NDArray[np.float64], k: int, frame_ids: ArrayLike
) -> Picks:
    """Pick ``k`` rows, each the farthest from the reference and all earlier picks. The gain is that distance.

    Without a reference the first pick is the row farthest from the origin, that is from the mean of scaled rows.
    Arguments as for :func:`max_det`.
    """
    rows = np.argsort(np.asarray(frame_ids, dtype=str), kind='stable')
    table = descriptors[rows]
    start = reference if len(reference) else np.zeros((1, descriptors.shape[1]))
    nearest = nearest_distance(table, start)
    first = [len(reference) == 0]

    def take(best: int) -> None:
        distance = np.linalg.norm(table - table[best], axis=1)
        nearest[...] = distance if first[0] else np.minimum(nearest, distance)
        first[0] = False

    order, gain = _greedy(lambda: nearest, take, len(rows), k)
    return _by_identity(order, gain, rows)
