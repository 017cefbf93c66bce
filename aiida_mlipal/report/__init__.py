"""The report of a campaign: one HTML file with everything in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiida.orm import WorkChainNode

__all__ = ('write_report',)


def write_report(node: WorkChainNode, path: str | Path) -> None:
    """Write the report of the campaign ``node``, finished or running, to ``path``."""
    from aiida_mlipal.report.collect import collect
    from aiida_mlipal.report.page import render

    Path(path).write_text(render(collect(node)), encoding='utf-8')
