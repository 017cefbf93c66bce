"""CalcJob that makes a model node of a file of elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict, SinglefileData

from aiida_mlipal.calculations.functions.imports import declared
from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.foundation import FOUNDATION, InspectSettings

__all__ = ('MaceInspectCalculation',)


def _validate_level(node: Dict, _: Any) -> str | None:
    """Refuse a level of theory that labels of different origin cannot be told apart by."""
    try:
        given = node.get_dict()
        if declared(given) != given:
            return 'the level of theory must say `declared: true`, since nobody here has seen the labels.'
    except ValueError as exception:
        return str(exception)
    return None


class MaceInspectCalculation(RunnerCalculation):
    """Look into a model file and return it as a node with what it takes to train it further.

    A model is a pickle, which may run anything when it is read: it is read on the compute node alone, where jobs run
    anyway, and only if its SHA-256 is the expected one.
    """

    _RUNNER = 'inspect_model'
    _ENTRY_POINT = 'mlipal.mace.inspect'
    _SETTINGS = InspectSettings
    CACHE_VERSION = 1

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs and outputs."""
        super().define(spec)
        spec.input('file', valid_type=SinglefileData, help='The model file.')
        spec.input(
            'level_of_theory',
            valid_type=Dict,
            validator=_validate_level,
            help='How the labels were computed that it learned from, as the user declares it.',
        )
        spec.output('model', valid_type=MlipModelData, help='The model.')

    def write_inputs(self, folder: Path) -> None:
        """Write the model file."""
        (folder / FOUNDATION).write_bytes(self.inputs.file.get_content('rb'))
