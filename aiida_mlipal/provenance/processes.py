"""The processes below a process, by a few queries instead of loading every node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiida import orm
from aiida.common.links import LinkType

__all__ = ('ACTIVE', 'Process', 'called_by', 'created_by')

#: States of processes that still have something to do.
ACTIVE = ('created', 'running', 'waiting')
#: SQLite binds a limited number of values in one statement.
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Process:
    """One called process. ``name`` is the class or function, ``link`` what its caller calls it."""

    pk: int
    caller: int
    link: str
    name: str
    node_type: str
    state: str
    exit_status: int | None
    exit_message: str
    started: datetime
    changed: datetime

    @property
    def is_active(self) -> bool:
        """Whether it still has something to do."""
        return self.state in ACTIVE

    @property
    def is_ok(self) -> bool:
        """Whether it ended well."""
        return self.state == 'finished' and self.exit_status == 0

    @property
    def is_job(self) -> bool:
        """Whether it runs on a computer."""
        return 'CalcJobNode' in self.node_type


def called_by(node: orm.ProcessNode) -> list[Process]:
    """Return all processes that ``node`` called, directly or not, in the order of their start."""
    found: list[Process] = []
    level = [node.pk]
    while level:
        children = [
            process for start in range(0, len(level), _BATCH) for process in _calls(level[start : start + _BATCH])
        ]
        found += children
        level = [process.pk for process in children]
    return sorted(found, key=lambda process: process.pk)


def _calls(callers: list[int]) -> list[Process]:
    query = orm.QueryBuilder().append(orm.ProcessNode, filters={'id': {'in': callers}}, tag='caller', project='id')
    query.append(
        orm.ProcessNode,
        with_incoming='caller',
        edge_filters={'type': {'in': [LinkType.CALL_CALC.value, LinkType.CALL_WORK.value]}},
        edge_project='label',
        project=[
            'id',
            'attributes.process_label',
            'node_type',
            'attributes.process_state',
            'attributes.exit_status',
            'attributes.exit_message',
            'ctime',
            'mtime',
        ],
    )
    return [
        Process(
            caller=caller,
            pk=pk,
            name=name or '?',
            node_type=node_type,
            state=state or 'created',
            exit_status=exit_status,
            exit_message=exit_message or '',
            started=ctime,
            changed=mtime,
            link=link,
        )
        for caller, pk, name, node_type, state, exit_status, exit_message, ctime, mtime, link in query.all()
    ]


def created_by(pks: list[int], kind: type[orm.Data], link: str | None = None) -> dict[int, Any]:
    """Return, by the PK of the calculation, the (last) node of class ``kind`` that it created.

    :param link: the name of the output; needed where a calculation creates several of one class.
    """
    nodes: dict[int, Any] = {}
    for start in range(0, len(pks), _BATCH):
        query = orm.QueryBuilder().append(
            orm.ProcessNode, filters={'id': {'in': pks[start : start + _BATCH]}}, tag='creator', project='id'
        )
        edge = {'type': LinkType.CREATE.value, **({'label': link} if link else {})}
        query.append(kind, with_incoming='creator', edge_filters=edge, project='*')
        nodes.update(dict(query.all()))
    return nodes
