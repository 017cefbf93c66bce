"""A lane: labels one frame after the other, so that several lanes keep a fixed number of calculations busy.

AiiDA's ``to_context`` waits for everything that a step has submitted. Lanes side by side have no such common barrier:
while one parses or waits for the scheduler, the others compute.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ToContext, WorkChain, while_

from aiida_mlipal.workflows.engines import load_engine

__all__ = ('LabelLaneWorkChain', 'attempt_label', 'attempts')


def attempt_label(task: str, attempt: int) -> str:
    """Return what a lane calls an attempt at a task; the first (1) is called like the task."""
    return task if attempt == 1 else f'{task}_attempt_{attempt}'


def attempts(lane: orm.WorkChainNode) -> dict[str, list[orm.ProcessNode]]:
    """Return the processes that a lane has called, by task, the last attempt last."""
    calls = lane.base.links.get_outgoing(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all()
    result: dict[str, list[orm.ProcessNode]] = {}
    for call in sorted(calls, key=lambda call: int(call.node.pk)):
        if isinstance(call.node, orm.CalcFunctionNode):  # made the inputs of a retry
            continue
        result.setdefault(call.link_label.partition('_attempt_')[0], []).append(call.node)
    return result


class LabelLaneWorkChain(WorkChain):
    """Run the tasks of one lane in order; a task that fails costs nothing but itself.

    The lane returns nothing. What counts is what its processes left, see :func:`attempts`: nothing is lost with a lane
    that is killed, and AiiDA has little to do for it, one step and no link per task.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('engine', valid_type=orm.Str, help='Name of the label engine.')
        spec.input_namespace('engine_inputs', dynamic=True, help='What all tasks share; see the engine.')
        spec.input('max_attempts', valid_type=orm.Int, help='Processes per task, the first included.')
        spec.input(
            'tasks',
            valid_type=list,
            non_db=True,
            help='Link label of each task and the PKs of its inputs by name, in order. Its processes are linked to '
            'these nodes; links of the lane, too, would only cost time.',
        )
        spec.outline(cls.setup, while_(cls.has_task)(cls.run_task))

    def setup(self) -> None:
        """Start at the first task."""
        self.ctx.waiting = [label for label, _ in self.inputs.tasks]
        self._begin()

    def _begin(self) -> None:
        """Forget what was changed for the task before."""
        self.ctx.attempt = 0
        self.ctx.changed = {}
        self.ctx.options = self.inputs.engine_inputs['options'].get_dict()

    def has_task(self) -> bool:
        """Return whether a task is left, or another attempt at the last one."""
        if self.ctx.attempt and not self._will_retry(self.ctx.waiting[0], self.ctx.current):
            self.ctx.waiting.pop(0)
            self._begin()
        return bool(self.ctx.waiting)

    def run_task(self) -> Any:
        """Submit the next task, or the next attempt at it."""
        self.ctx.attempt += 1
        engine = load_engine(self.inputs.engine.value)
        process, inputs = engine.process(self._task, self.inputs.engine_inputs, dict(self.ctx.options))
        label = attempt_label(self.ctx.waiting[0], self.ctx.attempt)
        inputs.setdefault('metadata', {})['call_link_label'] = label
        return ToContext(current=self.submit(process, **inputs))

    def _will_retry(self, label: str, process: orm.ProcessNode) -> bool:
        """Change something after a failure if the engine knows what, and return whether it did."""
        _clean(process, self.inputs.engine_inputs)
        if process.is_finished_ok:
            return False
        self.report(f'{label}: {process.process_label}<{process.pk}> failed: {process.exit_message}')
        _spoil(process)
        if self.ctx.attempt >= self.inputs.max_attempts.value:
            return False
        engine = load_engine(self.inputs.engine.value)
        retry = engine.retry(process, self.ctx.attempt, self._task, self.inputs.engine_inputs, dict(self.ctx.options))
        if retry is None:
            return False
        self.ctx.changed = {**self.ctx.changed, **retry.inputs}
        self.ctx.options = {**self.ctx.options, **retry.options}
        self.report(f'{label}: attempt {self.ctx.attempt + 1}: {retry.reason}')
        return True

    @property
    def _task(self) -> dict[str, Any]:
        """The inputs of the current task, changed or not."""
        pks = dict(self.inputs.tasks)[self.ctx.waiting[0]]
        return {name: orm.load_node(pk) for name, pk in pks.items()} | dict(self.ctx.changed)


def _spoil(process: orm.ProcessNode) -> None:
    """Make sure that AiiDA's cache never takes a failed job for the result of the same job run again."""
    jobs = [process, *process.called_descendants] if isinstance(process, orm.WorkChainNode) else [process]
    for job in jobs:
        if isinstance(job, orm.CalcJobNode) and not job.is_finished_ok:
            job.base.caching.is_valid_cache = False


def _clean(process: orm.ProcessNode, engine_inputs: Any) -> None:
    """Remove the work folder of a job that the lane runs itself; a base WorkChain removes those of its jobs itself."""
    wanted = engine_inputs.get('clean_workdir')
    if wanted is None or not wanted.value or 'remote_folder' not in process.outputs:
        return
    folder = process.outputs.remote_folder
    if folder.creator.pk == process.pk and not folder.is_cleaned:
        with suppress(OSError):  # a machine that cannot be reached now: the label is safe, only its files stay
            folder._clean()
