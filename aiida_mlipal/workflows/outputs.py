"""What became of a process: its outputs by namespace, and why it failed."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common.links import LinkType

__all__ = ('output_namespace', 'reason_of')


def output_namespace(process: orm.ProcessNode, name: str) -> dict[str, Any]:
    """Return the nodes of an output namespace by label; empty if the process returned none."""
    links = process.base.links.get_outgoing(link_type=(LinkType.CREATE, LinkType.RETURN))
    return dict(links.nested().get(name, {}))


def reason_of(process: orm.ProcessNode) -> str:
    """Return why a process failed, and what the user should look at."""
    state = process.exit_message or (process.process_state.value if process.process_state else 'unknown')
    return f'{process.process_label}<{process.pk}>: {state} See `verdi process report {process.pk}`.'
