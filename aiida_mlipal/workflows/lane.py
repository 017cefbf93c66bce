"""A lane: labels one frame after the other, so that several lanes keep a fixed number of calculations busy.

AiiDA's ``to_context`` waits for everything that a step has submitted. Lanes side by side have no such common barrier:
while one parses or waits for the scheduler, the others compute.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aiida import orm
from aiida.engine import ToContext, WorkChain, while_

from aiida_mlipal.workflows.attempts import attempt_label, shared_label, shared_output
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.once import submit_once
from aiida_mlipal.workflows.sharing import how_many_fit
from aiida_mlipal.workflows.timing import wall_seconds

__all__ = ('LabelLaneWorkChain',)


class LabelLaneWorkChain(WorkChain):
    """Run the tasks of one lane in order; a task that fails costs nothing but itself.

    Each task is a process of its own, or, once it is known how long they take, several short ones share a job where the
    engine can do that. What such a job leaves undone is run alone.

    The lane returns nothing. What counts is what its processes left, see :mod:`aiida_mlipal.workflows.attempts`:
    nothing is lost with a lane that is killed, and AiiDA has little to do for it, one step and no link per task.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('engine', valid_type=orm.Str, help='Name of the label engine.')
        spec.input_namespace('engine_inputs', dynamic=True, help='What all tasks share; see the engine.')
        spec.input('max_attempts', valid_type=orm.Int, help='Processes of its own per task, the first included.')
        spec.input('max_shared', valid_type=orm.Int, help='Tasks that may share a job; 1 for none.')
        spec.input(
            'pace',
            valid_type=float,
            non_db=True,
            help='Seconds of a job per unit of cost, as far as they are known from earlier labels; else 0.',
        )
        spec.input(
            'tasks',
            valid_type=list,
            non_db=True,
            help='Link label of each task, the PKs of its inputs by name, and what it costs in some unit; in order. '
            'Its processes are linked to these nodes; links of the lane, too, would only cost time.',
        )
        spec.outline(cls.setup, while_(cls.has_task)(cls.run_task))

    def setup(self) -> None:
        """Start at the first task."""
        self.ctx.waiting = [label for label, _, _ in self.inputs.tasks]
        self.ctx.running = []
        self.ctx.alone = []
        self.ctx.n_shared = 0
        self.ctx.pace = self.inputs.pace
        self._begin()

    def _begin(self) -> None:
        """Forget what was changed for the task before."""
        self.ctx.attempt = 0
        self.ctx.task_inputs = {}
        self.ctx.options = self.inputs.engine_inputs['options'].get_dict()

    def has_task(self) -> bool:
        """Return whether a task is left, or another attempt at the last one."""
        if len(self.ctx.running) > 1:
            self._leave_undone_alone()
        elif self.ctx.running and not self._will_retry(self.ctx.running[0], self.ctx.current):
            seconds = wall_seconds(self.ctx.current)
            if self.ctx.current.is_finished_ok and seconds:  # none if it came from AiiDA's cache
                self.ctx.pace = seconds / self._costs[self.ctx.running[0]]
            self.ctx.waiting.pop(0)
            self._begin()
        return bool(self.ctx.waiting)

    def run_task(self) -> Any:
        """Submit the next task, the next attempt at it, or several tasks in one job."""
        engine = load_engine(self.inputs.engine.value)
        self.ctx.running = self.ctx.waiting[: self._n_together()]
        submission = None
        if len(self.ctx.running) > 1:
            tasks = {label: self._task(label) for label in self.ctx.running}
            submission = engine.share(tasks, self.inputs.engine_inputs, dict(self.ctx.options))
        if submission is not None:
            self.ctx.n_shared += 1
            link = shared_label(self.ctx.n_shared)
        else:
            self.ctx.running = self.ctx.running[:1]
            (label,) = self.ctx.running
            if not self.ctx.attempt:
                self.ctx.task_inputs = engine.alone(label, self._task(label), self.inputs.engine_inputs)
            self.ctx.attempt += 1
            link = attempt_label(label, self.ctx.attempt)
            submission = engine.process(dict(self.ctx.task_inputs), self.inputs.engine_inputs, dict(self.ctx.options))
        return ToContext(current=submit_once(self, link, *submission))

    def _n_together(self) -> int:
        """Return how many of the tasks that wait may run as one job."""
        if self.ctx.attempt:
            return 1
        ready = []
        for label in self.ctx.waiting[: self.inputs.max_shared.value]:
            if label in self.ctx.alone:
                break
            ready.append(self.ctx.pace * self._costs[label])
        return how_many_fit(ready, self.ctx.options.get('max_wallclock_seconds'))

    def _leave_undone_alone(self) -> None:
        """Put what a shared job did not finish before the other tasks, each to run alone."""
        process = self.ctx.current
        _clean(process, self.inputs.engine_inputs)
        _, done = shared_output(process)
        undone = [label for label in self.ctx.running if label not in done]
        if undone:
            reason = process.exit_message or process.process_state.value
            self.report(f'{len(undone)} of {len(self.ctx.running)} frames are left, to run alone: {reason}')
            _spoil(process)
        self.ctx.alone = undone
        self.ctx.waiting = undone + self.ctx.waiting[len(self.ctx.running) :]

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
        task = dict(self.ctx.task_inputs)
        retry = engine.retry(process, self.ctx.attempt, task, self.inputs.engine_inputs, dict(self.ctx.options))
        if retry is None:
            return False
        self.ctx.task_inputs = {**task, **retry.inputs}
        self.ctx.options = {**self.ctx.options, **retry.options}
        self.report(f'{label}: attempt {self.ctx.attempt + 1}: {retry.reason}')
        return True

    @property
    def _costs(self) -> dict[str, float]:
        return {label: cost for label, _, cost in self.inputs.tasks}

    def _task(self, label: str) -> dict[str, Any]:
        """Return the inputs of a task."""
        pks = next(pks for name, pks, _ in self.inputs.tasks if name == label)
        return {name: orm.load_node(pk) for name, pk in pks.items()}


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
