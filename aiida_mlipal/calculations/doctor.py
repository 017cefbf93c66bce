"""CalcJob that tries a compute environment."""

from __future__ import annotations

from pathlib import Path

from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict

from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.science.inference_settings import InferenceSettings

__all__ = ('DoctorCalculation',)


class DoctorCalculation(RunnerCalculation):
    """One energy of a small MACE model as dynamics asks for it, with versions and device."""

    _RUNNER = 'doctor'
    _ENTRY_POINT = 'mlipal.doctor'
    _SETTINGS = InferenceSettings
    CACHE_VERSION = 1

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define outputs."""
        super().define(spec)
        spec.inputs['settings'].default = lambda: Dict({})
        spec.inputs['settings'].required = False
        spec.output('results', valid_type=Dict, help='Versions (`software`), `device`, `energy` in eV.')

    def write_inputs(self, folder: Path) -> None:
        """Nothing: the runner makes its own model."""
