"""Whether two frames are the same geometry, judged by the distance of their descriptors.

``frame_id`` says whether two frames are the same bytes; this says whether a model can tell them apart.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

__all__ = ('distinct', 'duplicate_scale', 'nearest_distance')

_BLOCK: Final = 256
#: Frames whose nearest neighbours set the scale of duplicates; more would only cost time.
_SCALE_SAMPLE: Final = 512


def nearest_distance(descriptors: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Euclidean distance of each descriptor to its nearest reference row, in blocks of bounded memory.

    :param descriptors: (F, D).
    :param reference: (N, D); without rows all distances are infinite.
    :returns: (F,), in the units of the descriptors.
    """
    nearest = np.full(len(descriptors), np.inf)
    if len(reference) == 0:
        return nearest
    for start in range(0, len(descriptors), _BLOCK):
        block = slice(start, start + _BLOCK)
        nearest[block] = cdist(descriptors[block], reference).min(axis=1)
    return nearest


def distinct(descriptors: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """Return for each row the earlier kept row it repeats, or its own index if it is kept itself.

    A row is kept if it is farther than ``distance`` from all rows kept before it, so the order of the rows decides
    which of a group of duplicates stays.

    :param descriptors: (F, D), in order of preference.
    :returns: (F,) indices.
    """
    owner = np.arange(len(descriptors))
    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(descriptors), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(descriptors)))
        if len(kept):
            gaps = cdist(descriptors[rows], descriptors[kept])
            nearest = gaps.argmin(axis=1)
            repeated = gaps[np.arange(len(rows)), nearest] <= distance
            owner[rows[repeated]] = kept[nearest[repeated]]
            rows = rows[~repeated]
        inner = cdist(descriptors[rows], descriptors[rows]) <= distance
        open_rows = np.ones(len(rows), dtype=bool)
        for index, row in enumerate(rows):
            if open_rows[index]:
                followers = inner[index] & open_rows
                followers[: index + 1] = False
                owner[rows[followers]] = row
                open_rows[followers] = False
        kept = np.concatenate((kept, rows[open_rows]))
    return owner


def duplicate_scale(table: NDArray[np.float64], reference: NDArray[np.float64], rows: NDArray[np.int64]) -> float:
    """Return the median distance of frames to their nearest neighbour, the scale on which two frames are one.

    Exact repeats (distance zero) are left out, or a pool of them would have no scale.

    :param table: (F, D).
    :param reference: (N, D) of further frames that may be the nearest.
    :param rows: of ``table`` whose neighbours are looked for, in an order that does not depend on that of the pool; an
        even sample of them is enough.
    """
    if len(rows) == 0:
        return 0.0
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SCALE_SAMPLE)).astype(int))]
    everything = np.unique(np.concatenate((reference, table[rows])), axis=0)
    if len(everything) < 2:
        return 0.0
    distances = []
    for row in sample:
        squares = ((everything - table[row]) ** 2).sum(axis=1)
        distances.append(np.sqrt(squares[squares > 0].min()))
    return float(np.median(distances))
