"""Whether two frames are the same geometry, judged by the distance of their descriptors.

``frame_id`` says whether two frames are the same bytes; this says whether a model can tell them apart.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

__all__ = ('distinct', 'nearest_distance')

_BLOCK: Final = 256


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
