"""Submit a process once, also if AiiDA repeats the step that submits it."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import WorkChain

__all__ = ('submit_once',)


def submit_once(parent: WorkChain, link_label: str, process: Any, inputs: dict[str, Any]) -> orm.ProcessNode:
    """Return the child of ``parent`` with this link label, submitted now unless it runs or has run already.

    AiiDA saves a WorkChain between steps. Where a daemon is killed within a step, the step is repeated, and what it had
    submitted would be paid twice. A child that was never started is not waited for: its message to the daemon may
    never have been sent.
    """
    query = orm.QueryBuilder().append(orm.WorkChainNode, filters={'id': parent.node.pk}, tag='parent')
    query.append(
        orm.ProcessNode,
        with_incoming='parent',
        edge_filters={'label': link_label},
        filters={'attributes.process_state': {'!==': 'created'}},
    )
    found = query.first(flat=True)
    if found is not None:
        node: orm.ProcessNode = found
        parent.report(f'{link_label}: goes on with {node.process_label}<{node.pk}>')
        return node
    metadata = {**inputs.get('metadata', {}), 'call_link_label': link_label}
    submitted: orm.ProcessNode = parent.submit(process, **{**inputs, 'metadata': metadata})
    return submitted
