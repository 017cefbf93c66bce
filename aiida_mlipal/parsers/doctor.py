"""Parser of a trial of a compute environment."""

from __future__ import annotations

from typing import Any

from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.parsers.statistics import statistics

__all__ = ('DoctorParser',)


class DoctorParser(RunnerParser):
    """Attach versions, device and energy."""

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the outputs."""
        self.out('results', statistics(result))
