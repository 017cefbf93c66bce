"""Quotas: at most so large a share of the picks from one trajectory, one exploration plan or one composition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_mlipal.science.settings import check_number, unknown_name

__all__ = ('KINDS', 'Quota', 'check_quotas', 'make_quota')

#: What quotas can be set upon: the trajectory of a frame, its origin (exploration plan), its chemical formula.
KINDS: Final = ('trajectory', 'plan', 'composition')
#: All groups that a quota does not name share what is left.
OTHERS: Final = 'all others'


@dataclass(frozen=True, eq=False)
class Quota:
    """The most picks from each group of one kind."""

    kind: str  #: one of :data:`KINDS`
    bucket: NDArray[np.str_]  #: (N,) the group that a candidate counts in
    limits: dict[str, int]  #: of each group, picks

    def full(self, picked: NDArray[np.int64]) -> list[str]:
        """Return the groups of which no more may be taken after the rows ``picked``."""
        counts = {group: int((self.bucket[picked] == group).sum()) for group in self.limits}
        return [group for group, limit in self.limits.items() if counts[group] >= limit]


def check_quotas(quotas: Mapping[str, Any]) -> None:
    """Refuse quotas that mean nothing.

    :raises ValueError: for an unknown kind, a share outside 0 to 1, or shares that add up to more than 1.
    """
    for kind, share in quotas.items():
        if kind not in KINDS:
            raise ValueError(unknown_name('quota', kind, KINDS))
        name = f'quotas.{kind}'
        if not isinstance(share, Mapping):
            check_number(name, share, within=(0, 1))
            if share == 0:
                raise ValueError(
                    f'`{name}` is 0, so that nothing could be taken: give a share above 0, or leave it out.'
                )
            continue
        for group, part in share.items():
            check_number(f'{name}.{group}', part, within=(0, 1))
        total = math.fsum(share.values())
        if total > 1 + 1e-9:
            raise ValueError(
                f'`{name}` adds up to {total:g}, but shares of one whole cannot exceed 1: lower some of '
                f'{", ".join(f"{group} {part:g}" for group, part in share.items())}.'
            )


def make_quota(kind: str, groups: ArrayLike, share: float | Mapping[str, float], k: int) -> Quota:
    """Return what a quota allows of ``k`` picks.

    :param groups: (N,) the group of each candidate.
    :param share: either one number, the largest share of the picks for any one group (at least one pick each); or a
        number for each of some groups, and what they leave for all others together. Parts of picks are rounded up.
    """
    names = np.asarray(groups, dtype=str)
    if not isinstance(share, Mapping):
        # Rounded before it is rounded up: 0.2 * 15 is 3.0000000000000004 to a computer.
        limit = max(1, math.ceil(round(share * k, 9)))
        return Quota(kind, names, dict.fromkeys(sorted(set(names.tolist())), limit))
    bucket = np.where(np.isin(names, list(share)), names, OTHERS)
    rest = max(0.0, 1 - math.fsum(share.values()))
    limits = {group: math.ceil(round(part * k, 9)) for group, part in {**share, OTHERS: rest}.items()}
    return Quota(kind, bucket, limits)
