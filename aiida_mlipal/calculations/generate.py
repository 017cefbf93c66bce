"""CalcJob that generates seeds."""

from __future__ import annotations

import json
from pathlib import Path

from aiida.engine import CalcJobProcessSpec
from aiida.orm import Int

from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.generate_settings import GenerateSettings

__all__ = ('GenerateCalculation',)


class GenerateCalculation(RunnerCalculation):
    """Apply a recipe of seed generators to parent structures, in a job."""

    _RUNNER = 'generate'
    _ENTRY_POINT = 'mlipal.generate'
    _SETTINGS = GenerateSettings
    _RETRIEVE_TEMPORARY = ('configurations.npz',)
    CACHE_VERSION = 1

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs and outputs."""
        super().define(spec)
        spec.input('parents', valid_type=ConfigurationsData, help='Parent structures.')
        spec.input('seed', valid_type=Int, help='Seed of every random choice.')
        spec.output('configurations', valid_type=ConfigurationsData, help='The seeds.')

    def write_inputs(self, folder: Path) -> None:
        """Write parents and seed."""
        self.inputs.parents.configurations.save(folder / 'parents.npz')
        (folder / 'seed.json').write_text(json.dumps(self.inputs.seed.value), encoding='utf-8')
