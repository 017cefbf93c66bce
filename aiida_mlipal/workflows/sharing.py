"""How many short labels share one job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ('SHARED_SECONDS', 'how_many_fit')

#: A job of ten minutes hides what a queue and AiiDA take to start it, and is not much to lose.
SHARED_SECONDS: Final = 600.0
#: Predictions are good to a factor of two or so.
_SHARE_OF_WALL_TIME: Final = 0.5


def how_many_fit(seconds: Sequence[float], max_wallclock_seconds: float | None) -> int:
    """Return how many of the first tasks may share a job, at least one.

    :param seconds: predicted wall time of each task in order; zero if nothing is known yet.
    :param max_wallclock_seconds: limit of the job: its tasks together stay below half of it.
    """
    limit = min(SHARED_SECONDS, _SHARE_OF_WALL_TIME * (max_wallclock_seconds or float('inf')))
    total = 0.0
    for index, expected in enumerate(seconds):
        total += expected
        if not expected or total > limit:
            return max(1, index)
    return max(1, len(seconds))
