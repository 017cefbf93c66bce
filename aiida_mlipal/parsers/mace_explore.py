"""Parser of an exploration."""

from __future__ import annotations

from typing import Any

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.parsers.statistics import statistics
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation

__all__ = ('MaceExploreParser',)


class MaceExploreParser(RunnerParser):
    """Attach the candidate pool, its evaluation and the statistics of what was visited."""

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the outputs."""
        self.out('pool', ConfigurationsData(Configurations.load(self.path('pool.npz'))))
        evaluation = Evaluation.load(self.path('evaluation.npz'))
        self.out('evaluation', EvaluationData(evaluation, model_sha256=self.node.inputs.model.digest))
        uncut = Configurations.load(self.path('uncut.npz'))
        if len(uncut):
            self.out('uncut', ConfigurationsData(uncut))
        self.out('results', statistics(result))
