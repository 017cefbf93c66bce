"""Parser of generated seeds."""

from __future__ import annotations

from typing import Any

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.science.configurations import Configurations

__all__ = ('GenerateParser',)


class GenerateParser(RunnerParser):
    """Attach the seeds."""

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the outputs."""
        self.out('configurations', ConfigurationsData(Configurations.load(self.path('configurations.npz'))))
