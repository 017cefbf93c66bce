"""What the database says of many calculations at once, and what of it is asked for once only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from aiida import orm

from aiida_mlipal.workflows.harvest.sources import Source

__all__ = ('Node', 'Once', 'Table', 'by_element', 'read_sources')

#: Databases bound the number of parameters of one query.
_BATCH: Final = 500

#: PK, node type and attributes of a node.
Node = tuple[int, str, dict[str, Any]]


class Table:
    """Attributes of the nodes around many calculations, in a few queries.

    ``ends`` holds exit status and message by calculation, ``inputs`` and ``outputs`` its :data:`Node` by link label.
    """

    def __init__(self, pks: list[int], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Ask for the calculations ``pks``; ``inputs`` and ``outputs`` are filters for link labels."""
        query = orm.QueryBuilder().append(
            orm.CalcJobNode,
            filters={'id': {'in': pks}},
            project=['id', 'attributes.exit_status', 'attributes.exit_message'],
        )
        self.ends = {pk: (status, message) for pk, status, message in query.all()}
        self.inputs: dict[int, dict[str, Node]] = {pk: {} for pk in pks}
        self.outputs: dict[int, dict[str, Node]] = {pk: {} for pk in pks}
        for direction, store, labels in (
            ('with_outgoing', self.inputs, inputs),
            ('with_incoming', self.outputs, outputs),
        ):
            query = orm.QueryBuilder().append(orm.CalcJobNode, filters={'id': {'in': pks}}, tag='job', project='id')
            query.append(
                orm.Data,
                edge_filters={'label': labels},
                edge_project='label',
                project=['id', 'node_type', 'attributes'],
                **{direction: 'job'},
            )
            for job, pk, node_type, attributes, label in query.iterall(batch_size=200):
                store[job][label] = (pk, node_type, attributes)


class Once:
    """A function that is called once for equal arguments, also if it refused them."""

    def __init__(self, function: Callable[..., dict[str, Any]]) -> None:
        self._function = function
        self._known: dict[str, dict[str, Any] | str] = {}

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        """Return what the function returns; the arguments must have a JSON form.

        :raises ValueError: as the function did.
        """
        key = json.dumps(arguments, sort_keys=True, default=str)
        if key not in self._known:
            try:
                self._known[key] = self._function(*arguments)
            except ValueError as exception:
                self._known[key] = str(exception)
        value = self._known[key]
        if isinstance(value, str):
            raise ValueError(value)
        return dict(value)


def read_sources(
    pks: Collection[int],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    read: Callable[[int, Table], Source],
) -> tuple[list[Source], Counter[str]]:
    """Return what ``read`` makes of each calculation, oldest first, and why it refused the others, counted."""
    found: list[Source] = []
    left_out: Counter[str] = Counter()
    for batch in _batches(pks):
        table = Table(batch, inputs, outputs)
        for pk in batch:
            try:
                found.append(read(pk, table))
            except ValueError as exception:
                left_out[str(exception)] += 1
    return found, left_out


def by_element(values: Mapping[str, Any], symbols: Mapping[str, str], what: str) -> dict[str, Any]:
    """Return what is given by kind of atom by element.

    :raises ValueError: if two kinds of an element differ.
    """
    found: dict[str, Any] = {}
    for kind, value in values.items():
        element = symbols.get(kind, kind)
        if found.setdefault(element, value) != value:
            raise ValueError(f'atoms of one element have different {what}')
    return found


def _batches(pks: Collection[int]) -> Iterator[list[int]]:
    """Return ``pks`` in order, in portions that fit into one query."""
    ordered = sorted(pks)
    for start in range(0, len(ordered), _BATCH):
        yield ordered[start : start + _BATCH]
