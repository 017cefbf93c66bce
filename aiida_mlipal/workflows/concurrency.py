"""How many labels may run at once without filling the daemon with processes that wait for each other."""

from __future__ import annotations

from typing import Final

from aiida import orm
from aiida.manage.configuration import get_config_option

__all__ = ('allowed_lanes',)

#: Share of one daemon worker's slots that live processes may take (aiida-core#1397: a full daemon locks up for ever).
SLOT_SHARE: Final = 0.4
#: Lane, base WorkChain and CalcJob.
SLOTS_PER_LANE: Final = 3
#: Lanes for a campaign that finds the share taken by others, as long as `FULL_SHARE` of the slots is not.
LANES_BESIDE_OTHERS: Final = 4
FULL_SHARE: Final = 0.8

_LIVE: Final = {'attributes.process_state': {'in': ['created', 'running', 'waiting']}}
_LANE: Final = {**_LIVE, 'attributes.process_label': 'LabelLaneWorkChain'}


def allowed_lanes(max_concurrent: int) -> int:
    """Return the number of lanes to start: ``max_concurrent``, or what the daemon still carries, and at least one.

    Campaigns share the daemon, so all live processes of the profile count, and each lane with all slots that it will
    take, whether or not it has started its first calculation. A campaign that comes late gets a few lanes all the same:
    with one it would wait for its slowest label long after the others are done. Slots are counted for one worker,
    since a running process does not know how many there are.
    """
    slots = int(get_config_option('daemon.worker_process_slots'))
    taken = _taken_slots()
    lanes = (int(SLOT_SHARE * slots) - taken) // SLOTS_PER_LANE
    if lanes < LANES_BESIDE_OTHERS:
        lanes = min(LANES_BESIDE_OTHERS, (int(FULL_SHARE * slots) - taken) // SLOTS_PER_LANE)
    return max(1, min(max_concurrent, lanes))


def _taken_slots() -> int:
    """Return the slots of the live processes of the profile, those that live lanes will still take included."""
    live = orm.QueryBuilder().append(orm.ProcessNode, filters=_LIVE).count()
    lanes = orm.QueryBuilder().append(orm.WorkChainNode, filters=_LANE, tag='lane')
    children = orm.QueryBuilder().append(orm.WorkChainNode, filters=_LANE, tag='lane')
    children.append(orm.ProcessNode, filters=_LIVE, with_incoming='lane', tag='child')
    grandchildren = orm.QueryBuilder().append(orm.WorkChainNode, filters=_LANE, tag='lane')
    grandchildren.append(orm.WorkChainNode, with_incoming='lane', tag='child')
    grandchildren.append(orm.ProcessNode, filters=_LIVE, with_incoming='child')
    others = int(live) - int(lanes.count()) - int(children.count()) - int(grandchildren.count())
    return others + SLOTS_PER_LANE * int(lanes.count())
