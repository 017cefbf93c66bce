"""Taking rows one by one, each the one of highest score after all picks before it.

Scores of all strategies here never rise while rows are taken. So an old score is an upper bound, and of the many rows
only those need a new one whose old score beats the best new one (Minoux, Optimization Techniques 7, 234 (1978)). New
scores may be approximate within a known margin as long as exact ones decide among the rows that are left. The picks are
those of the plain loop over all rows; the work is a small part of it, and consists of products of matrices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.strategies.quotas import Quota

__all__ = ('QUANTUM', 'Picks', 'Scorer', 'take_greedily')

#: Scores closer than this are ties, which the identity of a frame breaks.
QUANTUM: Final = 1e-9
#: What is reported is rounded to so many decimals: logarithms differ in their last bit between processors.
DECIMALS: Final = 6
#: Rows that receive a new score first; their number doubles until the best is found.
_FIRST: Final = 256
_BLOCK: Final = 1024


@dataclass(frozen=True, eq=False)
class Picks:
    """What a strategy did."""

    order: NDArray[np.int64]  #: (k,) rows in the order they were picked
    gain: NDArray[np.float64]  #: (N,) score of a row when it was picked, or what it would still add at the end
    n_random: int  #: the first so many were drawn at random, whatever the strategy
    sentence: str  #: why the strategy took the others


class Scorer(ABC):
    """The scores of one strategy, as its picks change them."""

    #: Why a row was taken.
    SENTENCE: ClassVar[str]

    def __init__(self, scores: NDArray[np.float64], margin: float = 0.0) -> None:
        self.scores = scores.copy()  #: (N,) after the first ``known`` picks, within the margin
        self.margin = margin
        self.known = np.zeros(len(scores), dtype=np.int64)
        self.taken: list[int] = []

    @abstractmethod
    def rescore(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores of ``rows`` after all picks: the same bits on every machine, in whatever company."""

    def approximate(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what :meth:`rescore` does, within the margin, if that is faster."""
        return self.rescore(rows)

    def take(self, row: int) -> None:
        """Add a row to the picks."""
        self.taken.append(row)

    def gain(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what is reported for a score."""
        return scores

    def refresh(self, rows: NDArray[np.int64], *, exact: bool = True) -> None:
        """Bring the scores of ``rows`` up to date."""
        score = self.rescore if exact else self.approximate
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            self.scores[block] = score(block)
        self.known[rows] = len(self.taken)

    def choose(self, free: NDArray[np.bool_], identity: NDArray[np.int64]) -> int:
        """Return the ``free`` row of highest score; of equal ones the first by identity."""
        n_new, slack = _FIRST, QUANTUM + 2 * self.margin
        best = self.scores[free & (self.known == len(self.taken))].max(initial=-np.inf)
        while True:
            stale = np.flatnonzero(free & (self.known < len(self.taken)) & (self.scores >= best - slack))
            if len(stale) == 0:
                break
            if len(stale) > n_new:
                stale = stale[np.argpartition(-self.scores[stale], n_new)[:n_new]]
                n_new *= 2
            self.refresh(stale, exact=False)
            best = max(best, float(self.scores[stale].max()))
        rivals = np.flatnonzero(free & (self.scores >= best - slack))
        self.refresh(rivals)
        tied = rivals[self.scores[rivals] >= self.scores[rivals].max() - QUANTUM]
        return int(tied[np.argmin(identity[tied])])


def take_greedily(
    scorer: Scorer,
    k: int,
    identity: NDArray[np.int64],
    quotas: Sequence[Quota] = (),
    first: Sequence[int] = (),
    n_first: int = 0,
) -> Picks:
    """Take ``k`` rows, or as many as there are and quotas allow.

    :param identity: (N,) place of each row in the order of the identities, which breaks ties.
    :param first: rows of which ``n_first`` are taken before all others; those that a quota forbids are passed over.
    """
    n_rows = len(identity)
    free, left = np.ones(n_rows, dtype=bool), [dict(quota.limits) for quota in quotas]
    reported = np.full(n_rows, np.nan)
    order: list[int] = []

    def take(row: int) -> None:
        reported[row] = scorer.gain(scorer.scores[[row]])[0]
        scorer.take(row)
        order.append(row)
        free[row] = False
        for quota, limits in zip(quotas, left, strict=True):
            group = str(quota.bucket[row])
            limits[group] -= 1
            if limits[group] == 0:
                free[quota.bucket == group] = False

    for quota, limits in zip(quotas, left, strict=True):
        free &= ~np.isin(quota.bucket, [group for group, limit in limits.items() if limit == 0])
    for row in first:
        if len(order) >= min(n_first, k):
            break
        if free[row]:
            scorer.refresh(np.array([row]))
            take(row)
    n_random = len(order)
    while len(order) < k and free.any():
        take(scorer.choose(free, identity))
    rest = np.isnan(reported)
    scorer.refresh(np.flatnonzero(rest))
    reported[rest] = scorer.gain(scorer.scores[rest])
    return Picks(
        order=np.array(order, dtype=np.int64),
        gain=np.round(reported, DECIMALS),
        n_random=n_random,
        sentence=scorer.SENTENCE,
    )
