"""A lane: labels one frame after the other, so that several lanes keep a fixed number of calculations busy.

AiiDA's ``to_context`` waits for everything that a step has submitted. Lanes side by side have no such common barrier:
while one parses or waits for the scheduler, the others compute.
"""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ToContext, WorkChain, while_

from aiida_mlipal.workflows.costs import attempt_label
from aiida_mlipal.workflows.engines import load_engine

__all__ = ('LabelLaneWorkChain',)


class LabelLaneWorkChain(WorkChain):
    """Run the tasks of one lane in order; a task that fails costs nothing but itself."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('engine', valid_type=orm.Str, help='Name of the label engine.')
        spec.input_namespace('engine_inputs', dynamic=True, help='What all tasks share; see the engine.')
        spec.input('max_attempts', valid_type=orm.Int, help='Processes per task, the first included.')
        spec.input_namespace('tasks', dynamic=True, help='Inputs of each task, by link label.')
        spec.output_namespace('results', dynamic=True, valid_type=orm.Data, help='What each task left, by link label.')
        spec.outline(cls.setup, while_(cls.has_task)(cls.run_task, cls.inspect_task))

    def setup(self) -> None:
        """Start at the first task."""
        self.ctx.waiting = sorted(self.inputs.tasks)
        self._begin()

    def _begin(self) -> None:
        """Forget what was changed for the task before."""
        self.ctx.attempt = 1
        self.ctx.changed = {}
        self.ctx.options = self.inputs.engine_inputs['options'].get_dict()

    def has_task(self) -> bool:
        """Return whether a task is left."""
        return bool(self.ctx.waiting)

    def run_task(self) -> Any:
        """Submit the next task, or the next attempt at it."""
        label = self.ctx.waiting[0]
        engine = load_engine(self.inputs.engine.value)
        process, inputs = engine.process(self._task, self.inputs.engine_inputs, dict(self.ctx.options))
        inputs.setdefault('metadata', {})['call_link_label'] = attempt_label(label, self.ctx.attempt)
        return ToContext(current=self.submit(process, **inputs))

    def inspect_task(self) -> None:
        """Keep what the task left, or change something and try again."""
        label, process = self.ctx.waiting[0], self.ctx.current
        engine = load_engine(self.inputs.engine.value)
        if not process.is_finished_ok:
            self.report(f'{label}: {process.process_label}<{process.pk}> failed: {process.exit_message}')
            if self.ctx.attempt < self.inputs.max_attempts.value:
                retry = engine.retry(
                    process, self.ctx.attempt, self._task, self.inputs.engine_inputs, dict(self.ctx.options)
                )
                if retry is not None:
                    self.ctx.attempt += 1
                    self.ctx.changed = {**self.ctx.changed, **retry.inputs}
                    self.ctx.options = {**self.ctx.options, **retry.options}
                    self.report(f'{label}: attempt {self.ctx.attempt}: {retry.reason}')
                    return
        result = engine.result(process)
        if result is not None:
            self.out(f'results.{label}', result)
        self.ctx.waiting.pop(0)
        self._begin()

    @property
    def _task(self) -> dict[str, Any]:
        """The inputs of the current task, changed or not."""
        return {**self.inputs.tasks[self.ctx.waiting[0]], **self.ctx.changed}
