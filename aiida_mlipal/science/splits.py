"""Which frames train, which validate, and which must do neither: decided once per frame and recorded as its role.

The draw looks at the identity of a frame and at a seed, so neither the order of the frames nor what else is in the
dataset changes it. Only while there are too few validation frames, further new ones are taken; they keep the role.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations

__all__ = ('MIN_VALID', 'draw_validation', 'record_roles', 'score')

#: Validation frames below which further ones are taken, as long as they are not more than half of all. The best epoch
#: is judged on them: with one frame it was an early epoch by chance, and the model far worse than at the end.
MIN_VALID: Final = 4
_LEARNING: Final = ('train', 'validation')


def score(frame_id: NDArray[np.str_], seed: int) -> NDArray[np.float64]:
    """Return a number from 0 to 1 for each frame that follows from its identity and ``seed`` alone, shape ``(F,)``."""
    digests = [hashlib.sha256(f'{seed}:{frame}'.encode()).digest() for frame in frame_id.tolist()]
    return np.array([int.from_bytes(digest[:8], 'big') / 2**64 for digest in digests])


def draw_validation(
    frame_id: NDArray[np.str_], *, fraction: float, seed: int, n_train: int = 0, n_valid: int = 0
) -> NDArray[np.bool_]:
    """Return which frames validate, shape ``(F,)``: those with a score below ``fraction``.

    If that leaves fewer than :data:`MIN_VALID` validation frames, or more than half of all, frames with the next higher
    scores come in or those with the highest go.

    :param n_train: frames that train already.
    :param n_valid: frames that validate already.
    """
    scores = score(frame_id, seed)
    half = (len(frame_id) + n_train + n_valid) // 2
    least, most = (min(max(bound - n_valid, 0), len(frame_id)) for bound in (min(MIN_VALID, half), half))
    count = min(max(int((scores < fraction).sum()), least), most)
    mask = np.zeros(len(frame_id), dtype=bool)
    mask[np.lexsort((frame_id, scores))[:count]] = True
    return mask


def record_roles(
    frames: Configurations, *, new: NDArray[np.bool_], withheld: NDArray[np.bool_], fraction: float, seed: int
) -> Configurations:
    """Return ``frames`` with the roles of new training frames decided; of the others only ``withheld`` ones change.

    :param new: which frames are undecided, shape ``(F,)``.
    :param withheld: which frames repeat one of the random stream, shape ``(F,)``: such a frame would show the model
        what it is to be tested on. It gets the role ``withheld``, also if earlier models have learned from it.
    :param fraction: share of frames for validation.
    """
    role = frames.role.astype(object)
    role[withheld & frames.has_role(*_LEARNING)] = 'withheld'
    open_rows = np.flatnonzero(new & frames.is_labelled & (role == 'train'))
    decided = frames.is_labelled & ~new
    drawn = draw_validation(
        frames.frame_id[open_rows],
        fraction=fraction,
        seed=seed,
        n_train=int((decided & (role == 'train')).sum()),
        n_valid=int((frames.is_labelled & (role == 'validation')).sum()),
    )
    role[open_rows[drawn]] = 'validation'
    return frames.with_columns(role=role.tolist())
