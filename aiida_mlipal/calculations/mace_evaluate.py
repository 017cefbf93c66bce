"""CalcJob that evaluates a committee on given frames."""

from __future__ import annotations

from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict

from aiida_mlipal.calculations.inference import InferenceCalculation
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.inference_settings import InferenceSettings

__all__ = ('MaceEvaluateCalculation',)


class MaceEvaluateCalculation(InferenceCalculation):
    """Energies, forces, stress, uncertainties and descriptors of frames."""

    _RUNNER = 'evaluate'
    _ENTRY_POINT = 'mlipal.mace.evaluate'
    _SETTINGS = InferenceSettings
    _RETRIEVE_TEMPORARY = ('evaluation.npz',)
    CACHE_VERSION = 2

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define outputs."""
        super().define(spec)
        spec.inputs['settings'].default = lambda: Dict({})
        spec.inputs['settings'].required = False
        spec.output('evaluation', valid_type=EvaluationData, help='Predictions, row by row.')
        spec.output('results', valid_type=Dict, help='Number of frames, time.')
