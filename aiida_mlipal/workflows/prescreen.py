"""The cheap level of theory that looks at all candidates first."""

from __future__ import annotations

from aiida_mlipal.workflows.label import LabelWorkChain

__all__ = ('PrescreenWorkChain',)


class PrescreenWorkChain(LabelWorkChain):
    """Label candidates with a cheap engine. A process of its own, so that nobody counts its labels as paid ones."""
