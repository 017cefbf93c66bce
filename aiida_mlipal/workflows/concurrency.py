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


def allowed_lanes(max_concurrent: int) -> int:
    """Return the number of lanes to start: ``max_concurrent``, or what the daemon still carries, and at least one.

    Campaigns share the daemon, so all live processes of the profile count. Slots are counted for one worker, since a
    running process does not know how many there are.
    """
    slots = int(get_config_option('daemon.worker_process_slots'))
    active = {'attributes.process_state': {'in': ['created', 'running', 'waiting']}}
    live = int(orm.QueryBuilder().append(orm.ProcessNode, filters=active).count())
    free = int(SLOT_SHARE * slots) - live
    return max(1, min(max_concurrent, free // SLOTS_PER_LANE))
