"""Frames that repeat one of the random stream: a model that has learned them has seen what it is to be tested on."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.descriptors import standardise
from aiida_mlipal.science.duplicates import duplicate_threshold, nearest_distance

__all__ = ('STREAM', 'repeats_of_stream')

#: Roles of the random stream.
STREAM: Final = ('calibration', 'test')


def repeats_of_stream(
    descriptors: NDArray[np.float64], stream: NDArray[np.bool_], fraction: float
) -> NDArray[np.bool_]:
    """Return which rows outside the random stream are the same geometry as one in it, shape ``(F,)``.

    As in the selection, two frames are one if they are closer than ``fraction`` times the median distance of a frame
    to its nearest neighbour.

    :param descriptors: (F, D), of one model or of none.
    :param stream: which rows are of the random stream, shape ``(F,)``.
    """
    if not stream.any() or stream.all():
        return np.zeros(len(descriptors), dtype=bool)
    table, nothing = standardise(descriptors, np.zeros((0, descriptors.shape[1])))
    threshold = duplicate_threshold(table, nothing, np.arange(len(table)), fraction)
    near: NDArray[np.bool_] = ~stream & (nearest_distance(table, table[stream]) <= threshold)
    return near
