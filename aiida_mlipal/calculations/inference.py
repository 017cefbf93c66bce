"""The base of CalcJobs that run a model on frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from aiida.engine import CalcJobProcessSpec

from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData

__all__ = ('InferenceCalculation',)


class InferenceCalculation(RunnerCalculation):
    """Run a runner that reads the member files of a model and one set of frames."""

    #: Name of the input that holds the frames; their file is called so too.
    _FRAMES: ClassVar[str] = 'configurations'

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define model and frames."""
        super().define(spec)
        spec.input('model', valid_type=MlipModelData, help='One model or a committee.')
        spec.input(cls._FRAMES, valid_type=ConfigurationsData, help='Frames, in the elements of the model.')

    @classmethod
    def _validate_inputs(cls, inputs: Any) -> str | None:
        """Refuse frames that the model cannot handle before anything is submitted."""
        if 'model' not in inputs or cls._FRAMES not in inputs:
            return None  # reported by the ports themselves
        return cls.check_frames(inputs['model'], inputs[cls._FRAMES])

    @classmethod
    def check_frames(cls, model: MlipModelData, frames: ConfigurationsData) -> str | None:
        """Return what is wrong with ``frames`` and what to do about it, or ``None``."""
        unknown = [element for element in frames.configurations.elements if element not in model.elements]
        if not unknown:
            return None
        return (
            f'`{cls._FRAMES}` hold {", ".join(unknown)}, but the model knows only {", ".join(model.elements)}: train '
            'one on frames with these elements, or take them out.'
        )

    def write_inputs(self, folder: Path) -> None:
        """Write the files of the members, and the frames."""
        model = self.inputs.model
        for name in model.member_names:
            (folder / name).write_bytes(model.read(name))
        self.inputs[self._FRAMES].configurations.save(folder / f'{self._FRAMES}.npz')
