"""A lane: labels one frame after the other, so that several lanes keep a fixed number of calculations busy.

AiiDA's ``to_context`` waits for everything that a step has submitted. Lanes side by side have no such common barrier:
while one parses or waits for the scheduler, the others compute.
"""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ToContext, WorkChain, while_

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
        spec.input_namespace('tasks', dynamic=True, help='Inputs of each task, by link label.')
        spec.output_namespace('results', dynamic=True, valid_type=orm.Data, help='What each task left, by link label.')
        spec.outline(cls.setup, while_(cls.has_task)(cls.run_task, cls.inspect_task))

    def setup(self) -> None:
        """Start at the first task."""
        self.ctx.waiting = sorted(self.inputs.tasks)

    def has_task(self) -> bool:
        """Return whether a task is left."""
        return bool(self.ctx.waiting)

    def run_task(self) -> Any:
        """Submit the next task."""
        label = self.ctx.waiting[0]
        engine = load_engine(self.inputs.engine.value)
        process, inputs = engine.process(self.inputs.tasks[label], self.inputs.engine_inputs)
        inputs.setdefault('metadata', {})['call_link_label'] = label
        return ToContext(current=self.submit(process, **inputs))

    def inspect_task(self) -> None:
        """Keep what the task left; why it failed, if it did, is read from there."""
        label = self.ctx.waiting.pop(0)
        process = self.ctx.current
        if not process.is_finished_ok:
            self.report(f'{label}: {process.process_label}<{process.pk}> failed: {process.exit_message}')
        result = load_engine(self.inputs.engine.value).result(process)
        if result is not None:
            self.out(f'results.{label}', result)
