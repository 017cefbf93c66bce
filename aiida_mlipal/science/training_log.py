"""MACE's training log ``results/*_train.txt``: JSON lines, of which a restart repeats some."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Final

__all__ = ('QUANTITIES', 'epochs_without_improvement', 'read_history')

#: Our name -> MACE's key: loss; RMSE of the energy per atom (eV), of force components (eV/Å), of the stress (eV/Å³).
QUANTITIES: Final = {
    'loss': 'loss',
    'energy_rmse_per_atom': 'rmse_e_per_atom',
    'force_rmse': 'rmse_f',
    'stress_rmse': 'rmse_stress',
}


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


def epochs_without_improvement(columns: dict[str, list[float]], first: int = 0) -> int:
    """Return how many epochs ago the lowest validation loss of one head was reached, 0 if there is none yet.

    :param first: epochs before this one do not count: their loss had other weights.
    """
    losses = {
        int(epoch): loss if math.isfinite(loss) else math.inf
        for epoch, loss in zip(columns['epoch'], columns['loss'], strict=True)
        if epoch >= first
    }
    return max(losses) - min(losses, key=losses.__getitem__) if losses else 0
