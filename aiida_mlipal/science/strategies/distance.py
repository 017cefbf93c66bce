"""Strategies that look at distances: farthest point, largest cluster, entropy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from aiida_mlipal.science.descriptors import squared_distances
from aiida_mlipal.science.strategies.greedy import QUANTUM, Scorer

__all__ = ('EntropyGain', 'FarthestPoint', 'LargestCluster')

_BLOCK: Final = 1024


def _anchors(table: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the reference; without one the origin, that is the mean of scaled rows."""
    return reference if len(reference) else np.zeros((1, table.shape[1]))


class FarthestPoint(Scorer):
    """The row farthest from the reference and all picks (Gonzalez, Theor. Comput. Sci. 38, 293 (1985)).

    The largest distance of a row to its nearest pick is at most twice the smallest possible. O(N R D) for R rows of
    reference, then at most O(k N D). Without a reference the first pick is the row farthest from the mean, and the
    mean counts no more after it.
    """

    SENTENCE = 'Of the candidates left it was farthest from all known'

    def __init__(self, table: NDArray[np.float64], reference: NDArray[np.float64]) -> None:
        self.table = table
        self.start = np.full(len(table), np.inf)
        self.has_reference = len(reference) > 0
        anchors = _anchors(table, reference)
        for start in range(0, len(table), _BLOCK):
            block = slice(start, start + _BLOCK)
            self.start[block] = squared_distances(table[block], anchors).min(axis=1)
        super().__init__(self.start)

    def rescore(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the squared distance of each row to the nearest that is known."""
        if not self.taken:
            return self.start[rows]
        nearest = squared_distances(self.table[rows], self.table[self.taken]).min(axis=1)
        scores: NDArray[np.float64] = np.minimum(self.start[rows], nearest) if self.has_reference else nearest
        return scores

    def take(self, row: int) -> None:
        """Add a row to the picks; after the first of all, distances from the mean bound nothing any more."""
        super().take(row)
        if not self.has_reference and len(self.taken) == 1:
            self.scores[:] = np.inf

    def gain(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return distances."""
        return np.sqrt(scores)


class LargestCluster(Scorer):
    """LCMD: the row farthest from the centre of the largest cluster (Holzmüller et al., JMLR 24, 164 (2023), sec. 3.3).

    Reference and picks are the centres, each row belongs to the nearest, and the size of a cluster is the sum of its
    squared distances: dense regions get more picks than :class:`FarthestPoint` gives them, outliers fewer.
    O(N R D) for R rows of reference, then O(k N D), all rows at each pick.
    """

    SENTENCE = 'Of the candidates left it was farthest from the centre of the largest cluster'

    def __init__(
        self, table: NDArray[np.float64], reference: NDArray[np.float64], by_identity: NDArray[np.int64]
    ) -> None:
        self.table = table
        self.by_identity = by_identity
        anchors = _anchors(table, reference)
        self.n_anchors = len(anchors)
        self.owner = np.zeros(len(table), dtype=np.int64)
        scores = np.zeros(len(table))
        for start in range(0, len(table), _BLOCK):
            block = slice(start, start + _BLOCK)
            squares = squared_distances(table[block], anchors)
            self.owner[block] = squares.argmin(axis=1)
            scores[block] = squares[np.arange(len(squares)), self.owner[block]]
        super().__init__(scores)

    def rescore(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the squared distances to the centres, which :meth:`take` keeps up to date."""
        return self.scores[rows]

    def take(self, row: int) -> None:
        """Make a row a centre."""
        squares = squared_distances(self.table, self.table[[row]])[:, 0]
        nearer = squares < self.scores
        nearer[row] = True
        self.scores[nearer] = squares[nearer]
        self.owner[nearer] = self.n_anchors + len(self.taken)
        super().take(row)

    def choose(self, free: NDArray[np.bool_], identity: NDArray[np.int64]) -> int:
        """Return the farthest ``free`` row of the largest cluster that has one."""
        rows = self.by_identity[free[self.by_identity]]
        sizes = np.bincount(self.owner[rows], weights=self.scores[rows])  # added in the order of the identities
        occupied = np.bincount(self.owner[rows]) > 0
        largest = occupied & (sizes >= sizes[occupied].max() - QUANTUM)
        rows = rows[largest[self.owner[rows]]]
        return int(rows[np.argmax(self.scores[rows] >= self.scores[rows].max() - QUANTUM)])

    def gain(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return distances."""
        return np.sqrt(scores)


class EntropyGain(Scorer):
    """The row that the density of reference and picks foresees least: the largest gain of entropy.

    ``-log sum exp(-|x - y|² / 2h²)`` over the reference and the picks y, as in QUESTS (Schwalbe-Koda et al., Nat.
    Commun. 16, 4014 (2025)), here of frames and not of atomic environments. O(N R D) for R rows of reference, then at
    most O(k N D).

    :param bandwidth: h, in the units of the scaled descriptors.
    """

    SENTENCE = 'Of the candidates left it would have added most entropy'

    def __init__(self, table: NDArray[np.float64], reference: NDArray[np.float64], bandwidth: float) -> None:
        self.table = table
        self.precision = 0.5 / bandwidth**2
        anchors = _anchors(table, reference)
        self.start = np.zeros(len(table))
        for start in range(0, len(table), _BLOCK):
            block = slice(start, start + _BLOCK)
            self.start[block] = self._log_density(table[block], anchors)
        super().__init__(-self.start)

    def _log_density(self, rows: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
        densities: NDArray[np.float64] = logsumexp(-self.precision * squared_distances(centres, rows), axis=0)
        return densities

    def rescore(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the gain of entropy of each row."""
        if not self.taken:
            return -self.start[rows]
        new = self._log_density(self.table[rows], self.table[self.taken])
        scores: NDArray[np.float64] = -np.logaddexp(self.start[rows], new)
        return scores
