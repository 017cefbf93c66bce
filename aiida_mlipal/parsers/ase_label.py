"""Parser of labels from an ASE calculator."""

from __future__ import annotations

from typing import Any

from aiida.engine import ExitCode
from aiida.orm import Dict

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.parsers.statistics import statistics
from aiida_mlipal.science.ase_teacher import level_of_theory
from aiida_mlipal.science.label_log import read_labels

__all__ = ('AseLabelParser',)


class AseLabelParser(RunnerParser):
    """Attach the labels, with their level of theory: all of them, or those that a failed job left."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        """Attach the outputs; of a job that failed, what it had computed."""
        exit_code = super().parse(**kwargs)
        if exit_code is not None and exit_code.status and self.path('labels.jsonl').exists():
            seconds = self._attach_labels()
            self.out('results', Dict({'frame_wall_s': seconds}))
        return exit_code

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the outputs."""
        self._attach_labels()
        self.out('results', statistics(result))

    def _attach_labels(self) -> list[float | None]:
        """Attach the labels and return the seconds that each took."""
        inputs = self.node.inputs
        previous = inputs.previous.configurations if 'previous' in inputs else None
        labels, seconds = read_labels(self.path('labels.jsonl'), inputs.configurations.configurations, previous)
        if 'level_of_theory' in inputs:
            theory = inputs.level_of_theory.get_dict()
        else:
            theory = level_of_theory(inputs.settings.get_dict(), inputs.model.digest if 'model' in inputs else None)
        self.out('labels', ConfigurationsData(labels, level_of_theory=theory))
        return seconds
