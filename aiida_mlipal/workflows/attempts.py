"""What the lanes of a labelling have run, task by task, read from the graph."""

from __future__ import annotations

from typing import Final

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlipal.workflows.outputs import outputs_of

__all__ = ('SHARED', 'attempt_label', 'attempts', 'shared_label', 'shared_output', 'shared_tasks')

#: How link labels begin of jobs for several tasks, and of what they left.
SHARED: Final = 'shared_'


def attempt_label(task: str, attempt: int) -> str:
    """Return what a lane calls an attempt at a task; the first (1) is called like the task."""
    return task if attempt == 1 else f'{task}_attempt_{attempt}'


def shared_label(number: int) -> str:
    """Return what a lane calls its job number ``number`` for several tasks."""
    return f'{SHARED}{number:03d}'


def shared_tasks(job: orm.ProcessNode) -> list[str]:
    """Return the tasks that share a job: its option ``frames``."""
    return list(job.base.attributes.get('frames', None) or [])


def shared_output(job: orm.ProcessNode) -> tuple[orm.Data | None, list[str]]:
    """Return the output ``labels`` of a job for several tasks, and which tasks are in it: its attribute ``frames``."""
    labels = outputs_of(job).get('labels')
    return labels, list(labels.base.attributes.get('frames')) if labels is not None else []


def attempts(lane: orm.WorkChainNode) -> dict[str, list[orm.ProcessNode]]:
    """Return the processes that a lane has called, by task, the last attempt last."""
    calls = lane.base.links.get_outgoing(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all()
    result: dict[str, list[orm.ProcessNode]] = {}
    for call in sorted(calls, key=lambda call: int(call.node.pk)):
        if isinstance(call.node, orm.CalcFunctionNode):  # made the inputs of a retry
            continue
        if call.link_label.startswith(SHARED):
            tasks = shared_tasks(call.node)
        else:
            tasks = [call.link_label.partition('_attempt_')[0]]
        for task in tasks:
            result.setdefault(task, []).append(call.node)
    return result
