"""CalcJob that labels frames with an ASE calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict

from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.ase_teacher import model_problem
from aiida_mlipal.science.label_settings import LabelSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('AseLabelCalculation',)


class AseLabelCalculation(RunnerCalculation):
    """Energy, forces and stress of all frames in one job. A frame that fails is a rejected row with its reason.

    A job that is killed leaves the frames that it had labelled, as the output ``labels`` of a failed calculation; given
    as ``previous`` to the next job, they are not computed again.
    """

    _RUNNER = 'label'
    _ENTRY_POINT = 'mlipal.ase.label'
    _SETTINGS = LabelSettings
    _RETRIEVE_TEMPORARY = ('labels.jsonl',)
    CACHE_VERSION = 2

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs and outputs."""
        super().define(spec)
        spec.input('configurations', valid_type=ConfigurationsData, help='Frames to label.')
        spec.input(
            'model', valid_type=MlipModelData, required=False, help='The model, for the calculator `mace`: its mean.'
        )
        spec.input(
            'previous',
            valid_type=ConfigurationsData,
            required=False,
            help='What an earlier job that was killed left of the same frames.',
        )
        spec.input(
            'level_of_theory',
            valid_type=Dict,
            required=False,
            help='Level of theory of the labels; by default calculator, parameters and model.',
        )
        spec.output('labels', valid_type=ConfigurationsData, help='The same frames with labels.')
        spec.output('results', valid_type=Dict, help='Numbers of frames; seconds per frame in `frame_wall_s`.')

    @classmethod
    def _validate_inputs(cls, inputs: Any) -> str | None:
        """Refuse a model that the calculator cannot use, and earlier labels of other frames."""
        if 'settings' not in inputs or 'configurations' not in inputs:
            return None  # reported by the ports themselves
        if 'previous' in inputs:
            ours, theirs = (inputs[name].configurations.frame_id.tolist() for name in ('configurations', 'previous'))
            if ours != theirs:
                return '`previous` holds other frames than `configurations`; give what a killed job left of the same.'
        return model_problem(from_dict(LabelSettings, inputs['settings'].get_dict()), 'model' in inputs)

    @classmethod
    def unused_gpus(cls, gpus: int, settings: dict[str, Any]) -> str | None:
        """Return why so many GPUs would stay idle: only a calculator knows whether it uses one."""
        label = from_dict(LabelSettings, settings)
        device = label.parameters.get('device', 'cpu')
        if label.name == 'mace' and device != 'cuda':
            return (
                f'`gpus` is {gpus}, but the calculator `mace` runs on the device `{device}`: add `device: cuda` to its '
                '`parameters`, or remove `gpus`.'
            )
        if gpus > 1:
            return f'`gpus` is {gpus}, but this job labels one frame after the other: set `gpus: 1`.'
        return None

    def write_inputs(self, folder: Path) -> None:
        """Write the frames, what is known of them, and the files of the model."""
        self.inputs.configurations.configurations.save(folder / 'configurations.npz')
        if 'previous' in self.inputs:
            self.inputs.previous.configurations.save(folder / 'previous.npz')
        if 'model' in self.inputs:
            for name in self.inputs.model.member_names:
                (folder / name).write_bytes(self.inputs.model.read(name))
