"""CalcJob that computes properties of a model from strained cells."""

from __future__ import annotations

from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict

from aiida_mlipal.calculations.inference import InferenceCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.inference_settings import PropertiesSettings

__all__ = ('PropertiesCalculation',)


class PropertiesCalculation(InferenceCalculation):
    """Equation of state: one Birch-Murnaghan fit per parent of the frames."""

    _RUNNER = 'properties'
    _ENTRY_POINT = 'mlipal.properties'
    _SETTINGS = PropertiesSettings
    CACHE_VERSION = 1

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define outputs."""
        super().define(spec)
        spec.inputs['settings'].default = lambda: Dict({})
        spec.inputs['settings'].required = False
        spec.output(
            'results',
            valid_type=Dict,
            help='`eos`: by parent, `v0` (Å³), `a0` (Å), `e0` (eV), `b0_gpa`, `b0_prime`, volumes and energies, '
            'or `problem` where the fit failed.',
        )

    @classmethod
    def check_frames(cls, model: MlipModelData, frames: ConfigurationsData) -> str | None:
        """Return what is wrong with the strained cells and what to do about it, or ``None``."""
        if not frames.configurations.pbc.all():
            return '`configurations` are not all periodic: an equation of state needs crystals.'
        return super().check_frames(model, frames)
