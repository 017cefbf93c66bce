"""What became of a process: its outputs by namespace, and why it failed."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common.links import LinkType

__all__ = ('inputs_of', 'output_namespace', 'outputs_of', 'reason_of')


def outputs_of(process: orm.ProcessNode) -> dict[str, Any]:
    """Return all outputs of a process by one query; ``process.outputs`` asks the database for each anew."""
    return dict(process.base.links.get_outgoing(link_type=(LinkType.CREATE, LinkType.RETURN)).nested())


def inputs_of(process: orm.ProcessNode) -> dict[str, Any]:
    """Return all inputs of a process by one query."""
    return dict(process.base.links.get_incoming(link_type=(LinkType.INPUT_CALC, LinkType.INPUT_WORK)).nested())


def output_namespace(process: orm.ProcessNode, name: str) -> dict[str, Any]:
    """Return the nodes of an output namespace by label; empty if the process returned none."""
    return dict(outputs_of(process).get(name, {}))


def reason_of(process: orm.ProcessNode) -> str:
    """Return why a process failed, and what the user should look at."""
    state = process.exit_message or (process.process_state.value if process.process_state else 'unknown')
    return f'{process.process_label}<{process.pk}>: {state} See `verdi process report {process.pk}`.'
