"""What MACE writes while it trains: its log, and ``results/*_train.txt``, JSON lines that a restart may repeat."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

__all__ = (
    'QUANTITIES',
    'clock',
    'epoch_ends',
    'epochs_without_improvement',
    'lowest_loss',
    'read_history',
    'seconds_left',
)

#: Our name -> MACE's key: loss; RMSE of the energy per atom (eV), of force components (eV/Å), of the stress (eV/Å³).
QUANTITIES: Final = {
    'loss': 'loss',
    'energy_rmse_per_atom': 'rmse_e_per_atom',
    'force_rmse': 'rmse_f',
    'stress_rmse': 'rmse_stress',
}
_EPOCH: Final = re.compile(r'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) INFO: Epoch (\d+): ')
#: Epochs from which the pace is taken: few enough to follow a machine that others use, too.
_PACE: Final = 10


def read_history(lines: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """Return, per head, the validation errors after each epoch as columns: ``epoch`` and :data:`QUANTITIES`.

    Records of single batches and of the untrained model are left out. If an epoch occurs twice (after a restart),
    the last record counts. A line that is being written is skipped. Quantities without labels are NaN.
    """
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get('mode') == 'eval' and record.get('epoch') is not None:
            records[record.get('head', 'Default'), int(record['epoch'])] = record
    history: dict[str, dict[str, list[float]]] = {}
    for head, epoch in sorted(records):
        columns = history.setdefault(head, {name: [] for name in ('epoch', *QUANTITIES)})
        columns['epoch'].append(epoch)
        for name, key in QUANTITIES.items():
            value = records[head, epoch].get(key)
            columns[name].append(float(value) if isinstance(value, (int, float)) else math.nan)
    return history


def _losses(columns: Mapping[str, list[float]], first: int) -> dict[int, float]:
    return {
        int(epoch): loss if math.isfinite(loss) else math.inf
        for epoch, loss in zip(columns['epoch'], columns['loss'], strict=True)
        if epoch >= first
    }


def epochs_without_improvement(columns: Mapping[str, list[float]], first: int = 0) -> int:
    """Return how many epochs ago the lowest validation loss of one head was reached, 0 if there is none yet.

    :param first: epochs before this one do not count: their loss had other weights.
    """
    losses = _losses(columns, first)
    return max(losses) - min(losses, key=losses.__getitem__) if losses else 0


def lowest_loss(columns: Mapping[str, list[float]], first: int = 0) -> float | None:
    """Return the lowest validation loss of one head from the epoch ``first`` on, ``None`` if there is none yet."""
    return min(_losses(columns, first).values(), default=None)


def clock(text: str) -> float:
    """Return seconds from a time such as ``2026-11-21 14:46:30.100``, to be held against others of the same clock."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def epoch_ends(lines: Iterable[str]) -> dict[int, float]:
    """Return when each epoch that is in the lines of MACE's log ended, in seconds of that computer's :func:`clock`."""
    found = (_EPOCH.match(line) for line in lines)
    return {int(match[2]): clock(match[1]) for match in found if match}


def seconds_left(ends: Mapping[int, float], max_epochs: int, now: float) -> float | None:
    """Return the seconds until the last epoch ends, at the median pace of the last ones.

    :param ends: see :func:`epoch_ends`.
    :param now: the time on the same clock: what has passed of the epoch under way is not left.
    :returns: at least 0; ``None`` before two epochs have ended.
    """
    last = sorted(ends.items())[-_PACE - 1 :]
    if len(last) < 2:
        return None
    pace = statistics.median((after - before) / (b - a) for (a, before), (b, after) in pairwise(last))
    epoch, end = last[-1]
    return max(0.0, (max_epochs - 1 - epoch) * pace - max(0.0, now - end))
