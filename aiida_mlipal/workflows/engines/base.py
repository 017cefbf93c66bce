"""What a label engine is: the one place that knows how a code is fed and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.science.label_checks import LabelChecks

__all__ = (
    'Inputs', 'LabelEngine', 'Retry', 'Task', 'check_spins', 'failure_reason', 'frame_problems', 'missing_inputs',
    'unfit_frames',
)  # fmt: skip

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What labels one frame, or a whole chunk: the inputs that are its own, and its size."""

    inputs: dict[str, Any]
    size: Size


@dataclass(frozen=True)
class Retry:
    """Another attempt at a task that failed."""

    reason: str  #: the physical or technical reason, for the report of the lane
    inputs: dict[str, Any] = field(default_factory=dict)  #: replace those of the task, made by calcfunctions
    options: dict[str, Any] = field(default_factory=dict)  #: replace those of the engine, for example the wall time


class LabelEngine(Protocol):
    """Builds the inputs of an existing WorkChain or CalcJob and turns its outputs into labels.

    ``inputs`` is everywhere the ``engine_inputs`` namespace of :class:`LabelWorkChain`: code, parameters and so on, the
    nodes that all frames share. An engine is stateless; to add one, register the class under the entry point group
    ``aiida_mlipal.engines``.
    """

    #: The plugin that the engine's code is registered with.
    plugin: str

    def build(
        self,
        code: orm.AbstractCode,
        structures: Sequence[orm.StructureData],
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return ``inputs`` for these structures from the plain values of a protocol's ``label`` section.

        :raises ValueError: for anything that is missing or unknown, with what to type instead.
        """

    def validate(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""

    def check_frames(self, frames: Configurations, inputs: Inputs) -> list[str]:
        """Return why some of ``frames`` cannot be labelled with ``inputs``, each with the mend; empty if all can."""

    def gives_stress(self, inputs: Inputs) -> bool:
        """Return whether frames that are periodic in three directions get a stress; yes, if that cannot be told."""

    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the readable level of theory; two labels with equal ones may be trained on together."""

    def describe(self, inputs: Inputs) -> orm.Dict:
        """Return :meth:`level_of_theory` as a node made by a calcfunction from ``inputs``."""

    def tasks(self, frames: ConfigurationsData, inputs: Inputs) -> dict[str, Task]:
        """Return the tasks for ``frames`` by link label, all nodes in them made by a calcfunction."""

    def alone(self, task: str, task_inputs: Inputs, inputs: Inputs) -> dict[str, Any]:
        """Return the inputs of a task for :meth:`process`: those of :meth:`tasks`, or what is made of them only now.

        What many tasks in one job do not need is better made here, by a calcfunction.
        """

    def process(self, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the process class and the inputs to submit for one task that runs alone, with these job options."""

    def share(
        self, tasks: Mapping[str, Inputs], inputs: Inputs, options: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Return the CalcJob that does several tasks in one job and its inputs, ``None`` if the engine has none.

        The CalcJob has an option ``frames``, the names of the tasks, and an output ``labels``, a node whose attribute
        ``frames`` lists the tasks that it holds. Those that are not in it are run again, alone.
        """

    def retry(
        self, process: orm.ProcessNode, attempt: int, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> Retry | None:
        """Return what to change after ``attempt`` failed (counted from 1), or ``None`` if nothing would help."""

    def result(self, process: orm.ProcessNode) -> orm.Data | None:
        """Return the output that :meth:`collect` reads, also of a failed process; ``None`` if it left nothing."""

    def collect(
        self, frames: ConfigurationsData, level_of_theory: orm.Dict, results: dict[str, orm.Data]
    ) -> ConfigurationsData:
        """Return the label chunk: ``frames`` with what the code computed, made by a calcfunction.

        ``results`` holds by task what :meth:`process` left, and under labels that begin with ``shared_`` what jobs of
        :meth:`share` left.

        A frame whose calculation failed is a rejected row with the reason. Thresholds are applied later, by
        :func:`aiida_mlipal.science.label_checks.check_labels`.
        """

    def sizes(self, job: orm.CalcJobNode, tasks: Sequence[str]) -> dict[str, Size]:
        """Return the sizes of ``tasks``, which have a label from ``job``, as :meth:`tasks` counts them.

        For a job that labels a whole chunk, the tasks are its frames. What is not known is left out.
        """


def failure_reason(output: orm.Data) -> str:
    """Return why the calculation that created ``output`` left no label."""
    creator = output.creator
    if creator is None:
        return 'the output has no creator'
    state = creator.process_state.value if creator.process_state else 'in an unknown state'
    if creator.exit_status is None:
        return f'{creator.process_label} was {state}'
    return f'{creator.process_label} exited with {creator.exit_status}: {creator.exit_message}'


def unfit_frames(engine: LabelEngine, frames: Configurations, inputs: Inputs, checks: LabelChecks) -> list[str]:
    """Return why some of ``frames`` cannot be labelled with ``inputs``, or would all fail ``checks``."""
    problems = engine.check_frames(frames, inputs)
    asked = frames.pbc.all(axis=1) & ~frames.has_role('isolated_atom')
    if checks.require_stress and asked.any() and not engine.gives_stress(inputs):
        mend = (
            'is periodic, so its label must have a stress, but these inputs of the engine give none: switch it on ('
            'pw.x `CONTROL: {tstress: true}`, CP2K `FORCE_EVAL: {STRESS_TENSOR: ANALYTICAL}`), choose a calculator '
            'that has one, or set `require_stress: false` in the checks.'
        )
        problems += _sentences((index, mend) for index in np.flatnonzero(asked).tolist())
    return problems


def missing_inputs(engine: object, inputs: Inputs, names: Sequence[str]) -> str | None:
    """Return which of the inputs ``names`` of an engine are missing, or ``None``."""
    missing = [name for name in names if name not in inputs]
    return f'`{type(engine).__name__}` needs inputs {missing}; its `build` makes them.' if missing else None


def frame_problems(frames: Configurations, *checks: Callable[[Configurations, int], str]) -> list[str]:
    """Return what ``checks`` find wrong with the frames that are not isolated atoms.

    :param checks: each returns what frame ``index`` of ``frames`` "has" or "is", and the mend; or an empty string.
    """
    rows = np.flatnonzero(~frames.has_role('isolated_atom')).tolist()
    return _sentences((index, check(frames, index)) for index in rows for check in checks)


def check_spins(frames: Configurations) -> list[str]:
    """Return frames whose number of electrons does not go with their multiplicity: odd with odd, even with even."""
    offsets = frames.offsets

    def problem(index: int) -> str:
        multiplicity, charge = int(frames.multiplicity[index]), int(frames.charge[index])
        electrons = int(frames.numbers[offsets[index] : offsets[index + 1]].sum()) - charge
        if not multiplicity or (electrons + multiplicity) % 2:
            return ''
        return (
            f'has {electrons} electrons and multiplicity {multiplicity}: an odd number of electrons needs an even '
            'multiplicity and the other way round; set `multiplicity` (0 leaves it open) or `charge`.'
        )

    return _sentences((index, problem(index)) for index in range(len(frames)))


def _sentences(found: Iterable[tuple[int, str]]) -> list[str]:
    """Return each problem once: with the first frame that has it, and how many others have the same."""
    rows: dict[str, list[int]] = {}
    for index, problem in found:
        if problem:
            rows.setdefault(problem, []).append(index)
    return [
        f'frame {first} {f"(and {len(others)} more) " if others else ""}{problem}'
        for problem, (first, *others) in rows.items()
    ]
