"""Label engines, found by name through the entry point group ``aiida_mlipal.engines``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from aiida_mlipal.workflows.engines.base import LabelEngine

__all__ = ('LabelEngine', 'engine_names', 'load_engine')

GROUP = 'aiida_mlipal.engines'


def engine_names() -> list[str]:
    """Return the names of all installed label engines."""
    return sorted({entry_point.name for entry_point in entry_points(group=GROUP)})


@cache  # entry points are searched on disk, and every step of every lane asks
def load_engine(name: str) -> LabelEngine:
    """Return the label engine called ``name``; engines have no state, so all callers share it.

    :raises ValueError: if there is none.
    """
    for entry_point in entry_points(group=GROUP, name=name):
        engine: LabelEngine = entry_point.load()()
        return engine
    raise ValueError(f'unknown label engine `{name}`; installed are {engine_names()}.')
