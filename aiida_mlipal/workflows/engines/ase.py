"""Labels from any ASE calculator, a whole chunk of frames in one job: the cheap teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aiida import orm
from aiida.engine import calcfunction
from aiida.plugins import CalculationFactory

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.science.level_of_theory import canonical
from aiida_mlipal.workflows.engines.base import Inputs, Retry, Task, check_spins, failure_reason

__all__ = ('AseEngine',)


def _level_of_theory(settings: dict[str, Any]) -> dict[str, Any]:
    return dict(
        canonical({'code': 'ase', 'calculator': settings['calculator'], 'parameters': settings.get('parameters', {})})
    )


@calcfunction
def describe_ase_level_of_theory(settings: orm.Dict) -> orm.Dict:
    """Return the level of theory of an ASE calculator with these settings."""
    return orm.Dict(_level_of_theory(settings.get_dict()))


@calcfunction
def reject_chunk(frames: ConfigurationsData, level_of_theory: orm.Dict, **results: orm.Data) -> ConfigurationsData:
    """Return ``frames`` as rejected rows, with the reason why their job left no labels."""
    configurations = frames.configurations
    reason = failure_reason(next(iter(results.values()))) if results else 'the job left nothing behind'
    n_frames = len(configurations)
    rejected = configurations.with_columns(status=['rejected'] * n_frames, reason=[reason] * n_frames)
    return ConfigurationsData(rejected, level_of_theory=level_of_theory.get_dict())


class AseEngine:
    """``mlipal.ase.label``. Inputs: ``code`` (a Python), ``settings`` (Dict: calculator, parameters), ``options``."""

    plugin: ClassVar[str] = 'mlipal.ase.label'
    _required: ClassVar = ('code', 'settings', 'options')

    def build(
        self,
        code: orm.AbstractCode,
        structures: Sequence[orm.StructureData],
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the inputs; the parameters are those of ``mlipal.ase.label``."""
        return {'code': code, 'settings': orm.Dict(settings['parameters']), 'options': orm.Dict(dict(options))}

    def validate(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""
        missing = [name for name in self._required if name not in inputs]
        if missing:
            return f'the ase engine needs inputs {missing}; see `{type(self).__name__}`.'
        if 'calculator' not in inputs['settings'].get_dict():
            return 'no calculator: set `calculator: emt` (or tblite, ...) in the label parameters.'
        return None

    def check_frames(self, frames: Configurations, inputs: Inputs) -> list[str]:
        """Return why some of ``frames`` cannot be labelled."""
        return check_spins(frames)

    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the calculator's name and parameters."""
        return _level_of_theory(inputs['settings'].get_dict())

    def describe(self, inputs: Inputs) -> orm.Dict:
        """Return :meth:`level_of_theory` as a node."""
        node: orm.Dict = describe_ase_level_of_theory(inputs['settings'])
        return node

    def tasks(self, frames: ConfigurationsData, inputs: Inputs) -> dict[str, Task]:
        """Return the one task of a chunk."""
        return {'chunk': Task({'configurations': frames}, Size(float(frames.configurations.numbers.sum()) or 1.0))}

    def process(
        self, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Return the CalcJob and its inputs."""
        return CalculationFactory('mlipal.ase.label'), {
            'code': inputs['code'],
            'configurations': task_inputs['configurations'],
            'settings': inputs['settings'],
            'metadata': {'options': dict(options)},
        }

    def retry(
        self, process: orm.ProcessNode, attempt: int, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> Retry | None:
        """Return nothing: a job that fails as a whole, fails again."""
        return None

    def result(self, process: orm.ProcessNode) -> orm.Data | None:
        """Return the labels, or what the job left."""
        for label in ('labels', 'retrieved', 'remote_folder'):
            if label in process.outputs:
                output: orm.Data = process.outputs[label]
                return output
        return None

    def collect(
        self, frames: ConfigurationsData, level_of_theory: orm.Dict, results: dict[str, orm.Data]
    ) -> ConfigurationsData:
        """Return the label chunk that the job made, or one that says why there is none."""
        labels = results.get('chunk')
        if isinstance(labels, ConfigurationsData):
            return labels
        chunk: ConfigurationsData = reject_chunk(frames, level_of_theory, **results)
        return chunk

    def size(self, calculation: orm.CalcJobNode) -> Size | None:
        """Return electrons per frame of the chunk, core electrons included."""
        frames = calculation.inputs.configurations.configurations
        return Size(float(frames.numbers.sum()) / len(frames)) if len(frames) else None
