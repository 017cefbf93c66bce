"""What label engines share that run a ``BaseRestartWorkChain`` per frame, which nearly every plugin of a code has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aiida import orm

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.workflows.engines.base import Inputs, Retry, check_spins, missing_inputs
from aiida_mlipal.workflows.engines.outputs import NODE_FAILURE, OUT_OF_MEMORY, OUT_OF_TIME

__all__ = ('RestartEngine', 'jobs_of', 'more_memory', 'more_time')


class RestartEngine(ABC):
    """Base of engines whose tasks are a ``BaseRestartWorkChain`` each.

    A subclass names its :attr:`plugin` and :attr:`required` inputs and writes ``build``, ``level_of_theory``,
    ``describe``, ``tasks``, ``process`` and ``collect`` of :class:`LabelEngine`; it may replace all else.

    Inputs that all have, from :meth:`shared_inputs`: ``code``, ``options`` (Dict, of the job), ``clean_workdir``
    (Bool), ``max_iterations`` (Int, calculations per attempt).
    """

    plugin: ClassVar[str]
    #: Inputs without which nothing works, beside those that all have.
    required: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def shared_inputs(
        code: orm.AbstractCode, settings: Mapping[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the inputs that all such engines have."""
        return {
            'code': code,
            'options': orm.Dict(dict(options)),
            'clean_workdir': orm.Bool(settings['clean_workdir']),
            'max_iterations': orm.Int(settings['max_iterations']),
        }

    def validate(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""
        shared = ('code', 'options', 'clean_workdir', 'max_iterations')
        problem = missing_inputs(self, inputs, [*shared, *self.required]) or self.check_inputs(inputs)
        if problem is not None:
            return problem
        try:
            self.level_of_theory(inputs)
        except ValueError as exception:
            return str(exception)
        return None

    def check_inputs(self, inputs: Inputs) -> str | None:
        """Return what else is wrong with ``inputs``, none of which is missing."""
        return None

    def check_frames(self, frames: Configurations, inputs: Inputs) -> list[str]:
        """Return frames whose number of electrons does not go with their multiplicity."""
        return check_spins(frames)

    def gives_stress(self, inputs: Inputs) -> bool:
        """Return ``True``: most codes can."""
        return True

    @abstractmethod
    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the readable level of theory."""

    def alone(self, task: str, task_inputs: Inputs, inputs: Inputs) -> dict[str, Any]:
        """Return ``task_inputs``, which are all there is."""
        return dict(task_inputs)

    def share(
        self, tasks: Mapping[str, Inputs], inputs: Inputs, options: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Return ``None``: every frame has a job of its own."""
        return None

    def retry(
        self, process: orm.ProcessNode, attempt: int, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> Retry | None:
        """Return what to change after the handlers of the WorkChain have had their turn.

        Twice the time, twice the memory, or the same again, once, where a node failed; other errors would repeat.
        """
        jobs = jobs_of(process)
        status = jobs[-1].exit_status if jobs else None
        if status == OUT_OF_TIME:
            return more_time(options)
        if status == OUT_OF_MEMORY:
            return more_memory(options)
        if status == NODE_FAILURE and attempt == 1:
            return Retry('the node failed: the same again')
        return None

    def result(self, process: orm.ProcessNode) -> orm.Data | None:
        """Return what the last calculation left: its retrieved files, or at least its folder on the machine."""
        for job in reversed(jobs_of(process)):
            for label in ('retrieved', 'remote_folder'):
                if label in job.outputs:
                    left: orm.Data = job.outputs[label]
                    return left
        return None

    def sizes(self, job: orm.CalcJobNode, tasks: Sequence[str]) -> dict[str, Size]:
        """Return nothing: unknown, so that no cost can be predicted."""
        return {}


def jobs_of(process: orm.ProcessNode) -> list[orm.CalcJobNode]:
    """Return the calculations that a WorkChain has run, the last one last."""
    jobs = (node for node in process.called if isinstance(node, orm.CalcJobNode))
    return sorted(jobs, key=lambda node: int(node.pk))


def more_time(options: Mapping[str, Any], **inputs: orm.Data) -> Retry | None:
    """Return twice the wall time, ``None`` if neither ``options`` nor ``inputs`` set it: the queue's own limit."""
    limit = options.get('max_wallclock_seconds')
    more = {} if limit is None else {'max_wallclock_seconds': 2 * limit}
    return Retry('out of time: twice as much', inputs, more) if more or inputs else None


def more_memory(options: Mapping[str, Any], **inputs: orm.Data) -> Retry | None:
    """Return twice the memory, and ``inputs`` that need less; ``None`` if there is neither."""
    limit = options.get('max_memory_kb')
    more = {} if limit is None else {'max_memory_kb': 2 * limit}
    return Retry('out of memory: more of it', inputs, more) if more or inputs else None
