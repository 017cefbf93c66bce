"""Parser of properties of a model."""

from __future__ import annotations

from typing import Any

from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.parsers.statistics import statistics

__all__ = ('PropertiesParser',)


class PropertiesParser(RunnerParser):
    """Attach the equations of state."""

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the outputs."""
        self.out('results', statistics(result))
