"""Strategies without memory: at random, and the most uncertain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.strategies.greedy import Scorer

__all__ = ('Random', 'TopUncertainty')


class _Fixed(Scorer):
    """Scores that picks do not change: O(N log N) in all."""

    def rescore(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores of ``rows``, which stay as they are."""
        return self.scores[rows]


class Random(_Fixed):
    """Uniformly at random, whatever the model thinks: what every other strategy has to beat.

    For ambient water it beat query by committee (Stolte et al., arXiv:2410.10698).
    """

    SENTENCE = 'It was drawn at random from the candidates'

    def __init__(self, drawn: NDArray[np.int64]) -> None:
        scores = np.empty(len(drawn))
        scores[drawn] = -np.arange(len(drawn), dtype=float)
        super().__init__(scores)

    def gain(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return no number: a place in a draw says nothing of a frame."""
        return np.full(len(scores), np.nan)


class TopUncertainty(_Fixed):
    """The largest expected force errors, eV/Å; near repeats too: query by committee (Seung et al., COLT 1992)."""

    SENTENCE = 'Of the candidates left it had the largest expected force error'
