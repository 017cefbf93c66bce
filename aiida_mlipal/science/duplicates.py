"""Whether two frames are the same geometry, judged by the distance of their descriptors.

``frame_id`` says whether two frames are the same bytes; this says whether a model can tell them apart. All tables are
on one grid (see :mod:`aiida_mlipal.science.descriptors`), where distances have no round-off.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial import cKDTree

from aiida_mlipal.science.descriptors import FINEST, row_order, squared_distances

__all__ = ('distinct', 'duplicate_scale', 'duplicate_threshold', 'nearest_distance')

_BLOCK: Final = 1024
#: Frames whose nearest neighbours set the scale of duplicates; more would only cost time.
_SCALE_SAMPLE: Final = 512
#: Directions in which near rows are looked for before their distance is calculated.
_SEARCHED: Final = 12


def nearest_distance(descriptors: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean distance of each descriptor to its nearest reference row, in blocks of bounded memory.

    :param descriptors: (F, D).
    :param reference: (N, D); without rows all distances are infinite.
    :returns: (F,), in the units of the descriptors.
    """
    nearest = np.full(len(descriptors), np.inf)
    for first in range(0, len(descriptors), _BLOCK):
        block = slice(first, first + _BLOCK)
        for start in range(0, len(reference), _BLOCK):
            squares = squared_distances(descriptors[block], reference[start : start + _BLOCK])
            np.minimum(nearest[block], squares.min(axis=1), out=nearest[block])
    distances: NDArray[np.float64] = np.sqrt(nearest)
    return distances


def distinct(descriptors: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """Return for each row the first kept row it repeats, or its own index if it is kept itself.

    A row is kept if it is farther than ``distance`` from all rows kept before it, so the order of the rows decides
    which of a group of duplicates stays. Near rows are found by a tree in a few leading directions, where no two rows
    are farther apart than they are, so that a pool of N frames takes about N log N steps and not N².

    :param descriptors: (F, D), in order of preference.
    :returns: (F,) indices.
    """
    owner = _first_equal(descriptors)
    unique = np.flatnonzero(owner == np.arange(len(owner)))
    if distance > 0 and len(unique) > 1:
        owner[unique] = unique[_first_near(descriptors[unique], distance)]
    return owner[owner]


def _first_equal(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each row the first that equals it to the last bit."""
    order = row_order(table)  # stable: of equal rows the first comes first
    starts = np.ones(len(table), dtype=bool)
    starts[1:] = (table[order[1:]] != table[order[:-1]]).any(axis=1)
    owner = np.empty(len(table), dtype=np.int64)
    owner[order] = order[starts][np.cumsum(starts) - 1]
    return owner


def _first_near(table: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """Return for each row the first kept one within ``distance``; no two rows are equal."""
    n_features = table.shape[1]
    mean = table.mean(axis=0)
    leading = (max(0, n_features - _SEARCHED), n_features - 1)
    places = table @ eigh(table.T @ table - len(table) * np.outer(mean, mean), subset_by_index=leading)[1]
    radius = distance * (1 + 1e-6) + 1e-9  # the projection has round-off; what it finds is looked at exactly
    tree = cKDTree(places)
    company = np.isfinite(tree.query(places, k=2, distance_upper_bound=radius)[0][:, 1])
    owner = np.arange(len(table))
    for row in np.flatnonzero(company).tolist():
        if owner[row] != row:
            continue
        near = np.array(tree.query_ball_point(places[row], radius))
        near = near[(near > row) & (owner[near] == near)]
        owner[near[squared_distances(table[near], table[[row]])[:, 0] <= distance**2]] = row
    return owner


def duplicate_scale(table: NDArray[np.float64], reference: NDArray[np.float64], rows: NDArray[np.int64]) -> float:
    """Return the median distance of frames to their nearest neighbour, the scale on which two frames are one.

    Repeats (no farther than rounding to the grid brings equal rows apart) are left out, or they would be the scale.

    :param table: (F, D).
    :param reference: (N, D) of further frames that may be the nearest.
    :param rows: of ``table`` whose neighbours are looked for, in an order that does not depend on that of the pool; an
        even sample of them is enough.
    """
    if len(rows) == 0:
        return 0.0
    sample = table[rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SCALE_SAMPLE)).astype(int))]]
    nearest, noise = np.full(len(sample), np.inf), _noise(table.shape[1])
    for others in (reference, table[rows]):
        for start in range(0, len(others), _BLOCK):
            squares = squared_distances(sample, others[start : start + _BLOCK])
            np.minimum(nearest, np.where(squares > noise**2, squares, np.inf).min(axis=1), out=nearest)
    found = nearest[np.isfinite(nearest)]
    return float(np.median(np.sqrt(found))) if len(found) else 0.0


def duplicate_threshold(
    table: NDArray[np.float64], reference: NDArray[np.float64], rows: NDArray[np.int64], fraction: float
) -> float:
    """Return the distance up to which two frames are one: ``fraction`` of :func:`duplicate_scale`, whose arguments it
    takes, but no less than rounding brings equal rows apart. Zero for a fraction of zero."""
    return max(fraction * duplicate_scale(table, reference, rows), _noise(table.shape[1])) if fraction > 0 else 0.0


def _noise(n_features: int) -> float:
    """Return how far apart two rows may be that were equal up to their last digits: two steps in each coordinate."""
    return float(2 * FINEST * np.sqrt(n_features))
