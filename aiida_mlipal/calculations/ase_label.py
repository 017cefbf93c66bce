"""CalcJob that labels frames with an ASE calculator."""

from __future__ import annotations

from pathlib import Path

from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict

from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.label_settings import LabelSettings

__all__ = ('AseLabelCalculation',)


class AseLabelCalculation(RunnerCalculation):
    """Energy, forces and stress of all frames in one job. A frame that fails is a rejected row with its reason."""

    _RUNNER = 'label'
    _ENTRY_POINT = 'mlipal.ase.label'
    _SETTINGS = LabelSettings
    _RETRIEVE_TEMPORARY = ('labels.npz',)
    CACHE_VERSION = 1

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs and outputs."""
        super().define(spec)
        spec.input('configurations', valid_type=ConfigurationsData, help='Frames to label.')
        spec.input(
            'level_of_theory',
            valid_type=Dict,
            required=False,
            help='Level of theory of the labels; by default calculator and parameters.',
        )
        spec.output('labels', valid_type=ConfigurationsData, help='The same frames with labels.')

    def write_inputs(self, folder: Path) -> None:
        """Write the frames."""
        self.inputs.configurations.configurations.save(folder / 'configurations.npz')
