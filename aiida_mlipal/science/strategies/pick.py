"""Pick some of the candidates by the name of a strategy: the one door to all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_mlipal.science.descriptors import row_order, standardise
from aiida_mlipal.science.duplicates import duplicate_scale
from aiida_mlipal.science.settings import unknown_name
from aiida_mlipal.science.strategies.determinant import CostAware, MaxDet, WeightedMaxDet, whitened
from aiida_mlipal.science.strategies.distance import EntropyGain, FarthestPoint, LargestCluster
from aiida_mlipal.science.strategies.greedy import Picks, Scorer, take_greedily
from aiida_mlipal.science.strategies.quotas import Quota
from aiida_mlipal.science.strategies.simple import Random, TopUncertainty

__all__ = ('NEED_COST', 'NEED_UNCERTAINTY', 'STRATEGIES', 'Candidates', 'pick')


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """What a strategy sees of N candidates and R frames that are trained on. Nothing of it is a label."""

    frame_ids: NDArray[np.str_]  #: (N,) identities, which break ties
    table: NDArray[np.float64]  #: (N, D) descriptors, scaled by :func:`aiida_mlipal.science.descriptors.standardise`
    reference: NDArray[np.float64]  #: (R, D), scaled together with them; R may be 0
    uncertainty: NDArray[np.float64] | None = None  #: (N,) expected force errors, eV/Å, finite
    cost: NDArray[np.float64] | None = None  #: (N,) predicted core seconds, positive

    @classmethod
    def from_descriptors(
        cls,
        descriptors: NDArray[np.float64],
        reference: NDArray[np.float64],
        frame_ids: ArrayLike,
        uncertainty: NDArray[np.float64] | None = None,
        cost: NDArray[np.float64] | None = None,
    ) -> Candidates:
        """Return candidates with the descriptors that a model gives: these are scaled here.

        :param descriptors: (N, D), finite.
        :param reference: (R, D) of the same model; ``np.zeros((0, D))`` for none.
        """
        table, known = standardise(np.asarray(descriptors, float), np.asarray(reference, float))
        names = np.asarray(frame_ids, dtype=str)
        return cls(frame_ids=names, table=table, reference=known, uncertainty=uncertainty, cost=cost)

    def __len__(self) -> int:
        return len(self.frame_ids)


def _uncertainty(candidates: Candidates) -> NDArray[np.float64]:
    if candidates.uncertainty is None or not np.isfinite(candidates.uncertainty).all():
        raise ValueError('the strategy needs a finite uncertainty of every candidate.')
    return candidates.uncertainty


def _cost(candidates: Candidates) -> NDArray[np.float64]:
    if candidates.cost is None or not (candidates.cost > 0).all():
        raise ValueError('the strategy needs a positive predicted cost of every candidate.')
    return candidates.cost


def _whitened(candidates: Candidates) -> NDArray[np.float64]:
    return whitened(candidates.table, candidates.reference)


def _largest_cluster(candidates: Candidates) -> Scorer:
    by_identity = np.argsort(candidates.frame_ids, kind='stable')
    return LargestCluster(candidates.table, candidates.reference, by_identity)


def _entropy_gain(candidates: Candidates) -> Scorer:
    by_identity = np.argsort(candidates.frame_ids, kind='stable')
    bandwidth = duplicate_scale(candidates.table, candidates.reference, by_identity)
    return EntropyGain(candidates.table, candidates.reference, bandwidth or 1.0)


#: The scorer of each strategy, from the candidates and a random order of them.
_SCORERS: Final[dict[str, Callable[[Candidates, NDArray[np.int64]], Scorer]]] = {
    'random': lambda _, drawn: Random(drawn),
    'top_uncertainty': lambda given, _: TopUncertainty(_uncertainty(given)),
    'farthest_point': lambda given, _: FarthestPoint(given.table, given.reference),
    'max_det': lambda given, _: MaxDet(_whitened(given)),
    'lcmd': lambda given, _: _largest_cluster(given),
    'weighted_max_det': lambda given, _: WeightedMaxDet(_whitened(given), _uncertainty(given)),
    'entropy_gain': lambda given, _: _entropy_gain(given),
    'cost_aware': lambda given, _: CostAware(_whitened(given), _uncertainty(given), _cost(given)),
}
STRATEGIES: Final = tuple(_SCORERS)
#: Strategies that rank by the uncertainty of a model, and those that need the predicted cost of a label.
NEED_UNCERTAINTY: Final = ('top_uncertainty', 'weighted_max_det', 'cost_aware')
NEED_COST: Final = ('cost_aware',)


def pick(
    strategy: str,
    candidates: Candidates,
    k: int,
    seed: int | Sequence[int],
    *,
    n_random: int = 0,
    quotas: Sequence[Quota] = (),
) -> Picks:
    """Pick ``k`` candidates; fewer only if there are not so many, or quotas forbid more.

    The order of the candidates and of the reference does not matter. Equal inputs give equal picks and equal gains, to
    the last bit, on every machine.

    :param strategy: one of :data:`STRATEGIES`.
    :param n_random: the first so many of the picks are drawn at random; the strategy knows of them.
    :raises ValueError: for an unknown strategy, or one that needs an uncertainty or a cost where there is none.
    """
    if strategy not in _SCORERS:
        raise ValueError(unknown_name('strategy', strategy, STRATEGIES))
    by_identity = np.argsort(candidates.frame_ids, kind='stable')
    identity = np.empty(len(candidates), dtype=np.int64)
    identity[by_identity] = np.arange(len(candidates))
    drawn = np.random.default_rng(seed).permutation(by_identity)
    if len(candidates) == 0:
        return Picks(order=drawn, gain=np.zeros(0), n_random=0, sentence='')
    ordered = replace(candidates, reference=candidates.reference[row_order(candidates.reference)])
    n_first = 0 if strategy == 'random' else n_random
    return take_greedily(_SCORERS[strategy](ordered, drawn), k, identity, quotas, drawn.tolist(), n_first)
