"""Decide again what was decided, with another method or seed, from the inputs in the graph. Nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from aiida import orm

from aiida_mlipal.calculations.functions.costs import join_costs
from aiida_mlipal.calculations.functions.select import choose_frames
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.provenance.processes import called_by, created_by
from aiida_mlipal.science.cost_model import predict_costs
from aiida_mlipal.science.decision import Decision
from aiida_mlipal.science.plain import to_plain
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('Change', 'Replay', 'replay')

#: What a frame is to two decisions.
GROUPS: Final = ('taken by both', 'only in the stored decision', 'only in the replay')


@dataclass(frozen=True, kw_only=True)
class Change:
    """A frame that was taken by one of two decisions, or by both."""

    frame_id: str
    group: str  #: one of :data:`GROUPS`
    stored_class: str
    new_class: str
    stored_gain: float | None  #: gains of different methods do not compare
    new_gain: float | None
    calibrated: float | None  #: expected force error, eV/Å
    reason: str  #: why the replay took it, or did not


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A stored decision and another one from the same inputs."""

    selection: int  #: PK
    stored: dict[str, Any]  #: method and seed
    new: dict[str, Any]
    differing_columns: list[str]  #: in any bit; none if the replay is the stored decision
    n_changed_classes: int
    changes: list[Change]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON-safe values."""
        content: dict[str, Any] = to_plain(asdict(self))
        return content


def replay(node: SelectionData, changes: Mapping[str, Any], seed: int | None = None) -> Replay:
    """Return how the decision ``node`` would have been with other settings or another seed.

    :param changes: of SelectionSettings, against those of the stored decision.
    :raises ValueError: if the inputs of the decision are not in the graph, or settings are bad.
    """
    stored = node.decision
    creator = node.creator
    if creator is None or creator.process_label != 'select_frames':
        raise ValueError(
            f'the inputs of SelectionData<{node.pk}> are not in this profile, so that it cannot be decided again: it '
            'was imported without its provenance, or made by hand.'
        )
    inputs = {link.link_label: link.node for link in creator.base.links.get_incoming().all()}
    inputs = {name: inputs[name] for name in inputs if isinstance(inputs[name], orm.Data)}
    given = stored.settings or asdict(from_dict(SelectionSettings, inputs['selection'].get_dict()))
    settings = from_dict(SelectionSettings, {**given, **changes})
    costs = _costs(creator, inputs) if settings.cost_method else None
    decision = choose_frames(
        {**inputs, 'seed': orm.Int(inputs['seed'].value if seed is None else seed)}, settings, costs
    )
    return _compare(node, stored, decision)


def _costs(creator: orm.ProcessNode, inputs: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return the core seconds that labels of the pool were expected to take when the decision was made."""
    if 'costs' in inputs:
        return np.asarray(inputs['costs']['core_s'], dtype=float)
    campaign = creator.caller
    processes = [] if campaign is None else called_by(campaign)
    pks = [process.pk for process in processes if process.name == 'collect_costs' and process.pk < creator.pk]
    measured = {f'costs_{pk:09d}': node for pk, node in created_by(pks, orm.Dict).items()}
    pool, known = inputs['pool'].configurations, inputs['dataset'].configurations
    return predict_costs(pool, known, join_costs(measured))[1]


def _compare(node: SelectionData, stored: Decision, new: Decision) -> Replay:
    columns, others = stored.columns(), new.columns()
    rows = np.flatnonzero((stored.rank >= 0) | (new.rank >= 0))
    changes = [_change(stored, new, int(row)) for row in rows]
    return Replay(
        selection=node.pk,
        stored={'method': stored.method, 'seed': stored.seed},
        new={'method': new.method, 'seed': new.seed},
        differing_columns=[name for name, column in columns.items() if column.tobytes() != others[name].tobytes()],
        n_changed_classes=int((stored.klass != new.klass).sum()),
        changes=sorted(changes, key=lambda change: (GROUPS.index(change.group), change.frame_id)),
        notes=new.notes,
    )


def _change(stored: Decision, new: Decision, row: int) -> Change:
    before, after = bool(stored.rank[row] >= 0), bool(new.rank[row] >= 0)
    return Change(
        frame_id=str(new.frame_id[row]),
        group=GROUPS[0] if before and after else GROUPS[1] if before else GROUPS[2],
        stored_class=str(stored.klass[row]),
        new_class=str(new.klass[row]),
        stored_gain=_number(stored.gain[row]),
        new_gain=_number(new.gain[row]),
        calibrated=_number(new.calibrated[row]),
        reason=str(new.reason[row]),
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
