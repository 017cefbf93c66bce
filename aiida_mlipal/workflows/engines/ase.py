"""Labels from any ASE calculator, a whole chunk of frames in one job: the cheap teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from aiida import orm
from aiida.engine import calcfunction
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.ase_teacher import (
    charge_problem,
    gives_stress,
    known_elements,
    level_of_theory,
    model_problem,
)
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.science.label_log import unfinished, without_labels
from aiida_mlipal.science.label_settings import LabelSettings, calculator_class
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.workflows.engines.base import Inputs, Retry, Task, check_spins, failure_reason, missing_inputs

__all__ = ('AseEngine',)

#: Exit codes of AiiDA's schedulers.
_OUT_OF_MEMORY: Final = 110
_OUT_OF_WALLTIME: Final = 120
_NODE_FAILURE: Final = 140
#: And of the runner: it left no ``result.json``.
_NO_RESULT: Final = 300


@calcfunction
def describe_ase_level_of_theory(settings: orm.Dict, model: MlipModelData | None = None) -> orm.Dict:
    """Return the level of theory of an ASE calculator with these settings."""
    return orm.Dict(level_of_theory(settings.get_dict(), None if model is None else model.digest))


@calcfunction
def close_chunk(frames: ConfigurationsData, level_of_theory: orm.Dict, **results: orm.Data) -> ConfigurationsData:
    """Return what a failed job left: the labels it had computed, and rejected rows that say why it got no further."""
    left = next(iter(results.values()), None)
    why = 'the job left nothing behind' if left is None else failure_reason(left)
    known = left.configurations if isinstance(left, ConfigurationsData) else without_labels(frames.configurations)
    status, reason = known.status.tolist(), known.reason.tolist()
    for row in unfinished(known):
        status[row], reason[row] = 'rejected', f'{reason[row]}: {why}' if reason[row] else why
    return ConfigurationsData(
        known.with_columns(status=status, reason=reason), level_of_theory=level_of_theory.get_dict()
    )


class AseEngine:
    """``mlipal.ase.label``.

    Inputs: ``code`` (a Python), ``settings`` (Dict: calculator, parameters), ``options``, and for the calculator
    ``mace`` a ``model``.
    """

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
        inputs = {
            'code': code,
            'settings': orm.Dict(settings['parameters']),
            'options': orm.Dict(dict(options)),
            'clean_workdir': orm.Bool(settings.get('clean_workdir', True)),
        }
        if settings.get('model') is not None:
            inputs['model'] = settings['model']
        return inputs

    def validate(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""
        missing = missing_inputs(self, inputs, self._required)
        if missing is not None:
            return missing
        if 'calculator' not in inputs['settings'].get_dict():
            return 'no calculator: set `calculator: emt` (or tblite, ...) in the label parameters.'
        try:
            settings = self._settings(inputs)
            if settings.path.startswith('ase.'):  # the others may be installed on the compute node alone
                calculator_class(settings)
        except (ModuleNotFoundError, ValueError) as exception:
            return str(exception)
        return model_problem(settings, 'model' in inputs)

    @staticmethod
    def _settings(inputs: Inputs) -> LabelSettings:
        return from_dict(LabelSettings, inputs['settings'].get_dict())

    def check_frames(self, frames: Configurations, inputs: Inputs) -> list[str]:
        """Return why some of ``frames`` cannot be labelled."""
        settings = self._settings(inputs)
        known = inputs['model'].elements if 'model' in inputs else known_elements(settings)
        lacking = [] if known is None else [element for element in frames.elements if element not in known]
        charge = charge_problem(settings, frames)
        problems = ([charge] if charge else []) + check_spins(frames)
        if lacking:
            problems.insert(
                0,
                f'the calculator `{settings.name}` knows no {", ".join(lacking)}, only {", ".join(known or [])}: '
                'choose another calculator, or leave out the frames with these elements.',
            )
        return problems

    def gives_stress(self, inputs: Inputs) -> bool:
        """Return whether the calculator has a stress."""
        return gives_stress(self._settings(inputs))

    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the calculator's name and parameters, and the checksum of its model."""
        model = inputs.get('model')
        return level_of_theory(inputs['settings'].get_dict(), None if model is None else model.digest)

    def describe(self, inputs: Inputs) -> orm.Dict:
        """Return :meth:`level_of_theory` as a node."""
        model = {'model': inputs['model']} if 'model' in inputs else {}
        node: orm.Dict = describe_ase_level_of_theory(inputs['settings'], **model)
        return node

    def tasks(self, frames: ConfigurationsData, inputs: Inputs) -> dict[str, Task]:
        """Return the one task of a chunk."""
        return {'chunk': Task({'configurations': frames}, Size(float(frames.configurations.numbers.sum()) or 1.0))}

    def alone(self, task: str, task_inputs: Inputs, inputs: Inputs) -> dict[str, Any]:
        """Return ``task_inputs``, which are all there is."""
        return dict(task_inputs)

    def process(self, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the CalcJob and its inputs."""
        return CalculationFactory('mlipal.ase.label'), {
            **task_inputs,
            **{name: inputs[name] for name in ('code', 'settings', 'model') if name in inputs},
            'metadata': {'options': dict(options)},
        }

    def retry(
        self, process: orm.ProcessNode, attempt: int, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> Retry | None:
        """Go on where a job was killed; a job that fails by itself, as with a missing package, would fail again.

        The frames that it had labelled are kept. The one at which it died is tried last, so that a frame which crashes
        the program or wants too much memory does not take the others along.
        """
        if 'labels' not in process.outputs or not unfinished(process.outputs.labels.configurations):
            return None  # it never began, or there is nothing left to do
        left = {'previous': process.outputs.labels}
        if process.exit_status == _OUT_OF_WALLTIME:
            seconds = 2 * int(options['max_wallclock_seconds'])
            return Retry(f'out of wall time: the rest gets {seconds} s', left, {'max_wallclock_seconds': seconds})
        if process.exit_status == _OUT_OF_MEMORY and options.get('max_memory_kb'):
            memory = 2 * int(options['max_memory_kb'])
            return Retry(f'out of memory: the rest gets {memory} kB', left, {'max_memory_kb': memory})
        if process.exit_status in (_OUT_OF_MEMORY, _NODE_FAILURE, _NO_RESULT):
            return Retry('the job was killed: go on with the rest, the frame at which it died last', left)
        return None

    def share(
        self, tasks: Mapping[str, Inputs], inputs: Inputs, options: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Return ``None``: a task is a whole chunk already."""
        return None

    def result(self, process: orm.ProcessNode) -> orm.Data | None:
        """Return the labels, those of the attempt before if this one has none, or what else the job left."""
        for nodes, label in (
            (process.outputs, 'labels'),
            (process.inputs, 'previous'),
            (process.outputs, 'retrieved'),
            (process.outputs, 'remote_folder'),
        ):
            if label in nodes:
                output: orm.Data = nodes[label]
                return output
        return None

    def collect(
        self, frames: ConfigurationsData, level_of_theory: orm.Dict, results: dict[str, orm.Data]
    ) -> ConfigurationsData:
        """Return the label chunk that the job made, or one that says why labels are missing."""
        labels = results.get('chunk')
        if isinstance(labels, ConfigurationsData) and not unfinished(labels.configurations):
            return labels
        chunk: ConfigurationsData = close_chunk(frames, level_of_theory, **results)
        return chunk

    def sizes(self, job: orm.CalcJobNode, tasks: Sequence[str]) -> dict[str, Size]:
        """Return the electrons of each frame of the chunk, core electrons included."""
        frames = job.inputs.configurations.configurations
        electrons = {frame_key(index): frames.atoms(index).numbers.sum() for index in range(len(frames))}
        return {task: Size(float(electrons[task])) for task in tasks}
