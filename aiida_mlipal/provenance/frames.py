"""Where a frame is: the nodes of this profile that hold it, by its identity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.selection import SelectionData

__all__ = ('Place', 'find_frame', 'places_of')

#: How many similar identities a message names.
_NAMED: Final = 5


class Place(NamedTuple):
    """A row of a node."""

    node: orm.Data
    row: int


def _identities(kind: type[orm.Data]) -> Iterator[tuple[orm.Data, list[str]]]:
    """Yield all nodes of one class, the oldest first, with the identities of their frames."""
    query = orm.QueryBuilder().append(kind, tag='node', project=['*', 'attributes.frame_ids'])
    query.order_by({'node': {'id': 'asc'}})
    for node, listed in query.all():
        yield node, listed if listed is not None else node.get_array('frame_id').tolist()


def find_frame(identifier: str) -> str:
    """Return the identity of the one frame that ``identifier`` is, or begins with.

    :raises ValueError: if there is none or more than one, with the nearest.
    """
    known = {frame for kind in (ConfigurationsData, SelectionData) for _, ids in _identities(kind) for frame in ids}
    if identifier in known:
        return identifier
    found = sorted(frame for frame in known if frame.startswith(identifier))
    if len(found) == 1:
        return found[0]
    if found:
        more = ', ...' if len(found) > _NAMED else ''
        raise ValueError(
            f'{len(found)} frames begin with `{identifier}`: {", ".join(found[:_NAMED])}{more}. Give more of it.'
        )
    if not known:
        raise ValueError(f'there is no frame `{identifier}`: this profile holds no frames at all.')
    near = sorted(known, key=lambda frame: (-_common(frame, identifier), frame))[:_NAMED]
    raise ValueError(
        f'there is no frame `{identifier}` in this profile. The nearest identities are {", ".join(near)}; '
        '`verdi data mlipal selection export SELECTION -o FILE.csv` lists those of a decision.'
    )


def _common(frame: str, identifier: str) -> int:
    """Return how many characters agree from the start."""
    return next((at for at, (a, b) in enumerate(zip(frame, identifier, strict=False)) if a != b), len(identifier))


def places_of(frame: str, kind: type[orm.Data]) -> list[Place]:
    """Return every row of a node of class ``kind`` that is this frame, the oldest node first."""
    return [Place(node, int(row)) for node, ids in _identities(kind) for row in np.flatnonzero(np.array(ids) == frame)]
