"""What became of each label of a campaign: rejected or not and why, how many attempts it took, what it cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.processes import Process, created_by

__all__ = ('LabelCost', 'RejectedLabel', 'group_reasons', 'label_costs', 'rejected_labels')

_NUMBER: Final = re.compile(r'(?<![A-Za-z])[-+]?\d+(\.\d+)?([eE][-+]?\d+)?')


@dataclass(frozen=True, kw_only=True)
class LabelCost:
    """What one new label cost, failed attempts included. The size is missing where the last calculation failed."""

    core_s: float
    n_attempts: int
    n_electrons: float | None
    n_kpoints: int | None


@dataclass(frozen=True, kw_only=True)
class RejectedLabel:
    """One frame without an accepted label; without a cost if nothing new was computed for it."""

    frame_id: str
    role: str
    origin: str
    reason: str
    cost: LabelCost | None


def label_costs(processes: Sequence[Process]) -> dict[str, LabelCost]:
    """Return the cost of every label that ``processes`` computed, by ``frame_id``."""
    costs = {}
    pks = [process.pk for process in processes if process.name == 'collect_costs' and process.is_ok]
    for node in created_by(pks, orm.Dict).values():
        columns = node.get_dict()
        names = ('core_s', 'n_attempts', 'n_electrons', 'n_kpoints')
        for frame, *values in zip(columns['frame_ids'], *(columns[name] for name in names), strict=True):
            costs[frame] = LabelCost(**dict(zip(names, values, strict=True)))
    return costs


def rejected_labels(processes: Sequence[Process], costs: Mapping[str, LabelCost]) -> list[RejectedLabel]:
    """Return the rejected rows among what the finished labellings of ``processes`` returned, the newest first."""
    pks = [process.pk for process in processes if process.name == 'assemble_labels' and process.is_ok]
    rejected = []
    for _, node in sorted(created_by(pks, ConfigurationsData).items(), reverse=True):
        if not node.base.attributes.get('n_rejected'):
            continue
        frames = node.configurations
        for row in np.flatnonzero(frames.status == 'rejected'):
            frame = str(frames.frame_id[row])
            rejected.append(
                RejectedLabel(
                    frame_id=frame,
                    role=str(frames.role[row]),
                    origin=str(frames.trajectory[row] or frames.origin[row]),
                    reason=str(frames.reason[row]),
                    cost=costs.get(frame),
                )
            )
    return rejected


def group_reasons(reasons: Iterable[str]) -> list[tuple[str, int]]:
    """Return reasons with their counts, the most frequent first; those that differ in numbers alone are one.

    Where they do differ, each number is shown as ``…``.
    """
    groups: dict[str, list[str]] = {}
    for reason in reasons:
        groups.setdefault(_NUMBER.sub('…', reason), []).append(reason)
    named = [(found[0] if len(set(found)) == 1 else masked, len(found)) for masked, found in groups.items()]
    return sorted(named, key=lambda item: (-item[1], item[0]))
