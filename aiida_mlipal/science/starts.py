"""Where the simulations of an iteration start: by recorded shares, and by a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.plan_neb import NebPlan
from aiida_mlipal.science.settings import check_number, unknown_name

__all__ = ('SOURCES', 'check_shares', 'choose_starts', 'counts', 'weights_of', 'with_ends')

#: Where starts can come from. What a source lacks (two are empty in the first iteration) is taken from the first.
SOURCES: Final = {
    'training': 'labelled training frames, each as likely as another',
    'uncertain': 'labelled training frames, as likely as their uncertainty in the previous iteration was large',
    'last_safe': 'the last safe frames of the replicas that the previous iteration stopped',
    'structures': 'the structures that the campaign was given',
}


def check_shares(shares: object) -> None:
    """Refuse what cannot be shares of the sources.

    :raises ValueError: naming what was found and what was expected.
    """
    if not isinstance(shares, Mapping) or not shares:
        raise ValueError(f'`starts` must be a mapping of shares, as {{training: 0.5, last_safe: 0.5}}, got {shares!r}.')
    for source, share in shares.items():
        if source not in SOURCES:
            raise ValueError('`starts`: ' + unknown_name('source', source, SOURCES))
        check_number(f'starts: {source}', share, within=(0, 1))
    total = sum(float(share) for share in shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f'`starts`: the shares must add up to 1, but {dict(shares)!r} add up to {total:g}.')


def counts(shares: Mapping[str, float], n: int) -> dict[str, int]:
    """Return how many of ``n`` starts come from each source: the largest remainders are rounded up."""
    exact = {source: n * float(shares.get(source, 0.0)) for source in SOURCES}
    found = {source: int(np.floor(value + 1e-9)) for source, value in exact.items()}
    by_remainder = sorted(SOURCES, key=lambda source: found[source] - exact[source])
    for source in by_remainder[: n - sum(found.values())]:
        found[source] += 1
    return found


def weights_of(frame_ids: NDArray[np.str_], known: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the uncertainty of each frame; of those that nobody evaluated the median of the others, or 1.

    :param known: finite uncertainties by ``frame_id``, eV/Å.
    """
    values = np.array([known.get(frame_id, np.nan) for frame_id in frame_ids.tolist()])
    usual = float(np.nanmedian(values)) if np.isfinite(values).any() else 1.0
    return np.where(np.isfinite(values), values, usual)


def choose_starts(
    n: int,
    shares: Mapping[str, float],
    training: Configurations,
    *,
    uncertainties: Mapping[str, float],
    previous_pool: Configurations,
    structures: Configurations,
    rng: np.random.Generator,
) -> Configurations:
    """Return up to ``n`` frames, no frame twice, in random order. Their ``origin`` is the source.

    :param training: labelled frames that may be trained on.
    :param uncertainties: by ``frame_id``, of training frames, from the previous iteration.
    :param previous_pool: candidates of the previous iteration; may be empty.
    :param structures: that the campaign was given; may be empty.
    """
    structures = structures.take(structures.n_atoms > 1)  # a single atom cannot move
    wanted = counts(shares, n)
    broken = previous_pool.take(previous_pool.origin == 'last_safe')
    weights = weights_of(training.frame_id, uncertainties)
    # Exponential times divided by their rates: the smallest come in the order of a weighted draw without replacement.
    weighted = np.argsort(np.round(rng.exponential(size=len(training)) / np.maximum(weights, 1e-12), 12), kind='stable')
    orders = {
        'structures': (structures, rng.permutation(len(structures))),
        'last_safe': (broken, rng.permutation(len(broken))),
        'uncertain': (training, weighted if uncertainties else weighted[:0]),
        'training': (training, rng.permutation(len(training))),
    }
    parts, taken = [], set[str]()
    for source, (frames, order) in orders.items():
        room = n - len(taken) if source == 'training' else wanted[source]
        fresh = [row for row in order.tolist() if str(frames.frame_id[row]) not in taken][:room]
        taken |= set(frames.frame_id[fresh].tolist())
        parts.append(frames.take(np.array(fresh, dtype=np.int64)).with_columns(origin=[source] * len(fresh)))
    chosen = Configurations.concatenate(parts)
    return chosen.take(rng.permutation(len(chosen)))


def with_ends(
    starts: Configurations, structures: Configurations, plans: Sequence[Mapping[str, Any]]
) -> tuple[Configurations, list[dict[str, Any]]]:
    """Return starts that hold the ends of all paths too, and the plans with ends that are rows of these.

    :param plans: where the ends of a path are numbers of ``structures``.
    """
    found = []
    for plan in plans:
        item = dict(plan)
        if item.get('kind') == NebPlan.KIND:
            pairs = item.get('ends', NebPlan.ends)
            ids = {number: str(structures.frame_id[number]) for pair in pairs for number in pair}
            missing = [number for number, frame_id in ids.items() if frame_id not in starts.frame_id]
            more = structures.take(np.array(missing, dtype=np.int64))
            starts = Configurations.concatenate([starts, more.with_columns(origin=['end'] * len(more))])
            item['ends'] = [starts.index_of([ids[number] for number in pair]).tolist() for pair in pairs]
        found.append(item)
    return starts, found
