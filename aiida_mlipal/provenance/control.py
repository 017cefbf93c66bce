"""Campaigns with a control arm: which arm is which, and what their comparison says."""

from __future__ import annotations

from typing import Any, Final

from aiida import orm
from aiida.common.links import LinkType

__all__ = ('CAMPAIGN', 'CONTROLLED', 'arms_of', 'comparison_of')

#: Names of the processes.
CAMPAIGN: Final = 'ActiveLearningWorkChain'
CONTROLLED: Final = 'ControlledCampaignWorkChain'


def arms_of(node: orm.WorkChainNode) -> dict[str, orm.WorkChainNode]:
    """Return the arms that were started so far, ``campaign`` and ``control``; a plain campaign is its only arm."""
    if node.process_label != CONTROLLED:
        return {'campaign': node}
    links = node.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all()
    return {link.link_label: link.node for link in links if link.node.process_label == CAMPAIGN}


def comparison_of(node: orm.WorkChainNode) -> dict[str, Any]:
    """Return what came out of the comparison that ``node`` is a part of, or made; empty if there is none (yet)."""
    controlled = node if node.process_label == CONTROLLED else node.caller
    if controlled is None or controlled.process_label != CONTROLLED or 'comparison' not in controlled.outputs:
        return {}
    found: dict[str, Any] = controlled.outputs.comparison.get_dict()
    return found
