"""How far a labelling has come: frames done, failed, running and waiting, read from the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.processes import Process

__all__ = ('LabelCounts', 'failures_so_far', 'label_counts')


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Labels of a campaign, isolated atoms and validation included."""

    done: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def total(self) -> int:
        """All labels that were asked for so far."""
        return self.done + self.failed + self.running + self.waiting

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def label_counts(process: Process, processes: Sequence[Process]) -> tuple[LabelCounts, int]:
    """Return the labels of one LabelWorkChain, and how many count against the budget (isolated atoms do not)."""
    node = orm.load_node(process.pk)
    asked = node.inputs.configurations
    paid = asked.n_frames - asked.base.attributes.get('roles').get('isolated_atom', 0)
    labels = node.outputs.labels if 'labels' in node.outputs else None
    if isinstance(labels, ConfigurationsData):
        get = labels.base.attributes.get
        done, failed = get('n_labelled'), get('n_rejected')
        return LabelCounts(done=done, failed=failed, waiting=get('n_unlabelled') if process.is_active else 0), paid
    tasks = _latest(process, processes)
    frames = {task: item for task, item in tasks.items() if task.startswith('frame_')}
    if tasks and not frames and process.is_active:
        # An engine that labels a whole chunk in one job shows nothing of the frames inside.
        return LabelCounts(running=asked.n_frames), paid
    running = sum(item is not None and item.is_active for item in frames.values())
    failed = sum(_has_failed(item) for item in frames.values())
    done = len(frames) - running - failed
    if not process.is_active:
        return LabelCounts(done=done, failed=asked.n_frames - done), paid
    return LabelCounts(
        done=done, failed=failed, running=running, waiting=max(0, asked.n_frames - done - failed - running)
    ), paid


def failures_so_far(process: Process, processes: Sequence[Process]) -> list[str]:
    """Return why the last attempt at a task of a running LabelWorkChain failed, for each that did."""
    items = _latest(process, processes).values()
    return [item.exit_message or item.state for item in items if item is not None and _has_failed(item)]


def _has_failed(item: Process | None) -> bool:
    return item is not None and not item.is_active and not item.is_ok


def _latest(process: Process, processes: Sequence[Process]) -> dict[str, Process | None]:
    """Return the last process of each task of one LabelWorkChain; ``None`` where a shared job has done the task."""
    lanes = {item.pk for item in processes if item.caller == process.pk and item.name == 'LabelLaneWorkChain'}
    called = [item for item in processes if item.caller in lanes]
    pks = [item.pk for item in called if item.link.startswith('shared_')]
    inside, done = _tasks_in(pks), _tasks_done(pks)
    latest: dict[str, Process | None] = {}
    for item in called:
        if item.pk not in inside:
            latest[item.link.partition('_attempt_')[0]] = item
        elif item.is_active:
            latest.update(dict.fromkeys(inside[item.pk], item))
        else:
            latest.update(dict.fromkeys(done.get(item.pk, ())))
    return latest


def _tasks_in(pks: list[int]) -> dict[int, list[str]]:
    """Return the tasks of several shared jobs: their option ``frames``."""
    filters = {'id': {'in': pks}, 'attributes': {'has_key': 'frames'}}
    query = orm.QueryBuilder().append(orm.CalcJobNode, filters=filters, project=['id', 'attributes.frames'])
    return dict(query.all()) if pks else {}


def _tasks_done(pks: list[int]) -> dict[int, list[str]]:
    """Return the tasks that several shared jobs have finished."""
    query = orm.QueryBuilder().append(orm.CalcJobNode, filters={'id': {'in': pks}}, tag='job', project='id')
    query.append(
        orm.Data,
        with_incoming='job',
        edge_filters={'type': LinkType.CREATE.value, 'label': 'labels'},
        project='attributes.frames',
    )
    return dict(query.all()) if pks else {}
