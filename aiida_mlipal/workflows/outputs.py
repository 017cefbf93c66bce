"""Outputs of a process by namespace."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common.links import LinkType

__all__ = ('output_namespace',)


def output_namespace(process: orm.ProcessNode, name: str) -> dict[str, Any]:
    """Return the nodes of an output namespace by label; empty if the process returned none."""
    links = process.base.links.get_outgoing(link_type=(LinkType.CREATE, LinkType.RETURN))
    return dict(links.nested().get(name, {}))
