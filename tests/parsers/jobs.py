"""Finished jobs put together by hand, for the tests of parsers."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from aiida.common.links import LinkType
from aiida.orm import CalcJobNode, Computer, FolderData, Node

__all__ = ('finished_job', 'parse', 'result_json')


def finished_job(
    computer: Computer, entry_point: str, files: dict[str, str], inputs: dict[str, Node] | None = None
) -> CalcJobNode:
    """Return a stored CalcJobNode whose ``retrieved`` folder holds ``files``."""
    node = CalcJobNode(computer=computer, process_type=f'aiida.calculations:{entry_point}')
    node.set_options({'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'parser_name': entry_point})
    for label, value in (inputs or {}).items():
        node.base.links.add_incoming(value.store(), LinkType.INPUT_CALC, label)
    node.store()
    retrieved = FolderData()
    for name, content in files.items():
        retrieved.base.repository.put_object_from_filelike(BytesIO(content.encode()), name)
    retrieved.base.links.add_incoming(node, LinkType.CREATE, 'retrieved')
    retrieved.store()
    return node


def parse(node: CalcJobNode, temporary: Path) -> tuple[dict[str, Any], Any]:
    """Parse as the engine does; return outputs and exit code (``None`` if the parser sets none)."""
    parser = node.get_parser_class()(node)
    exit_code = parser.parse(retrieved_temporary_folder=str(temporary))
    return dict(parser.outputs), exit_code


def result_json(**content: Any) -> str:
    """Return what a runner leaves behind in ``result.json``."""
    return json.dumps({'status': 'ok', 'software': {'python': '3.11'}, 'device': 'cpu', 'wall_s': 1.0, **content})
