"""A small search for training settings: which learning rate and batch size, and how many committee members.

The grid is judged by errors on the validation frames, of several seeds per point, since seeds differ by up to 30 %. The
committee is judged by its spread alone: a committee is large enough when it ranks the atoms as the largest one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.settings import check_integer, check_number

__all__ = ('TuningSettings', 'best_point', 'choose_size', 'committee_sizes', 'grid', 'summarise_members')

#: Errors of a member on the validation frames, as a training names them.
ERRORS: Final = ('force_rmse', 'energy_rmse_per_atom')
#: Sub-committees of one size that are looked at, at most.
_SUBSETS: Final = 30


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """What is tried. Read with :func:`aiida_mlipal.science.settings.from_dict`."""

    lr: tuple[float, ...] = (0.003, 0.01, 0.03)  #: learning rates
    batch_size: tuple[int, ...] = (2, 4, 8)  #: frames per step; each is tried with each learning rate
    n_seeds: int = 2  #: members per point of the grid; without a second one nothing is known of the spread
    seed: int = 1  #: of the first member, everywhere; those of the others follow, one by one
    #: largest committee, which the smaller ones are compared with; 0 leaves the number of members as it is
    max_members: int = 8
    min_correlation: float = 0.95  #: rank correlation with the largest committee above which a smaller one will do

    def __post_init__(self) -> None:
        for name, check in (
            ('lr', partial(check_number, above=0.0)),
            ('batch_size', partial(check_integer, at_least=1)),
        ):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not values:
                raise ValueError(f'`{name}` must be a list of at least one value, got {values!r}.')
            for value in values:
                check(name, value)
            if len(set(values)) != len(values):
                raise ValueError(f'`{name}` names a value twice: {list(values)}.')
            object.__setattr__(self, name, tuple(sorted(values)))
        check_integer('n_seeds', self.n_seeds)
        check_integer('seed', self.seed, at_least=0)
        check_integer('max_members', self.max_members, at_least=0)
        if self.max_members in (1, 2):
            raise ValueError(
                f'`max_members` is {self.max_members}, but two members are the smallest committee and need a larger one'
                ' to be compared with: set 3 or more (8 is a good number), or 0 to leave the number as it is.'
            )
        check_number('min_correlation', self.min_correlation, within=(0.0, 1.0))

    def seeds(self, n_members: int) -> list[int]:
        """Return the seeds of so many members."""
        return list(range(self.seed, self.seed + n_members))


def grid(settings: TuningSettings) -> list[dict[str, Any]]:
    """Return ``lr`` and ``batch_size`` of each point, smallest batches first: these take longest."""
    return [{'lr': lr, 'batch_size': size} for size, lr in product(settings.batch_size, settings.lr)]


def summarise_members(members: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return mean and spread of the members' validation errors, and what one member took.

    :param members: what trainings say of their members; of those with one seed the last that was trained counts.
    :param seeds: of the members that there should be.
    :returns: ``force_rmse`` (eV/Å) and ``energy_rmse_per_atom`` (eV), each with ``_spread``, the sample standard
        deviation (None for one member), ``member_s``, the mean wall time of a member, and ``n_trained``. Errors are
        None if no member was trained, or if they are no numbers.
    """
    trained = {member['seed']: member for member in members if member['status'] == 'ok' and member['seed'] in seeds}
    seconds = [sum(member['wall_s'] for member in members if member['seed'] == seed) for seed in trained]
    row: dict[str, Any] = {'n_trained': len(trained), 'member_s': float(np.mean(seconds)) if seconds else None}
    for name in ERRORS:
        values = [member['errors']['valid'][name] for member in trained.values()]
        known = bool(values) and all(value is not None and math.isfinite(value) for value in values)
        row[name] = float(np.mean(values)) if known else None
        row[f'{name}_spread'] = float(np.std(values, ddof=1)) if known and len(values) > 1 else None
    return row


def best_point(rows: Sequence[Mapping[str, Any]]) -> tuple[int | None, list[float | None]]:
    """Return the index of the best row, None if there is none, and the score of each row.

    The score is the geometric mean of the force error and the energy error, each relative to the lowest of all rows: 1
    for a point that is best in both. Neither unit matters, nor the weights of the loss. Of equal scores the first wins.
    Rows whose ``status`` is not ``ok`` have none.
    """
    good = [row for row in rows if row['status'] == 'ok']
    if not good:
        return None, [None] * len(rows)
    lowest = {name: min(row[name] for row in good) or 1.0 for name in ERRORS}
    scores = [
        math.prod(row[name] / lowest[name] for name in ERRORS) ** (1 / len(ERRORS)) if row['status'] == 'ok' else None
        for row in rows
    ]
    best = min((score, index) for index, score in enumerate(scores) if score is not None)
    return best[1], scores


def committee_sizes(forces: NDArray[np.float64], seed: int) -> list[dict[str, Any]]:
    """Return how well committees of two members, three, and so on rank the atoms by their spread.

    :param forces: (K, A, 3), of each of K members on A atoms.
    :param seed: draws sub-committees where there are more than 30 of one size.
    :returns: for each size from 2 to K the mean and the lowest Spearman correlation of the spread per atom with that of
        all K members, over ``n_subsets`` sub-committees. They are part of the largest committee, so that the
        correlation with one of members of their own would be somewhat lower.
    """
    n_members = len(forces)
    rng = np.random.default_rng(seed)
    largest = _spread(forces)
    rows = []
    for size in range(2, n_members + 1):
        subsets = [*combinations(range(n_members), size)]
        if len(subsets) > _SUBSETS:
            subsets = [subsets[index] for index in np.sort(rng.choice(len(subsets), _SUBSETS, replace=False))]
        values = [_spearman(_spread(forces[list(subset)]), largest) for subset in subsets]
        rows.append(
            {
                'n_members': size,
                'spearman': float(np.mean(values)),
                'spearman_min': float(np.min(values)),
                'n_subsets': len(subsets),
            }
        )
    return rows


def choose_size(rows: Sequence[Mapping[str, Any]], min_correlation: float) -> int:
    """Return the smallest size whose correlation with the largest passes ``min_correlation``, else the largest."""
    good = [row['n_members'] for row in rows if row['spearman'] > min_correlation]
    return int(min(good, default=rows[-1]['n_members']))


def _spread(forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the spread per atom (A,) as in an evaluation: the sample standard deviation of a force component."""
    spread: NDArray[np.float64] = np.sqrt(forces.var(axis=0, ddof=1).mean(axis=-1))
    return spread


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the rank correlation, 0 where one of the two ranks nothing."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
