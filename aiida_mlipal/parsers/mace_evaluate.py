"""Parser of an evaluation."""

from __future__ import annotations

from typing import Any

from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.parsers.statistics import statistics
from aiida_mlipal.science.evaluation import Evaluation

__all__ = ('MaceEvaluateParser',)


class MaceEvaluateParser(RunnerParser):
    """Attach the predictions."""

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the outputs."""
        evaluation = Evaluation.load(self.path('evaluation.npz'))
        self.out('evaluation', EvaluationData(evaluation, model_sha256=self.node.inputs.model.digest))
        self.out('results', statistics(result))
