"""What labels cost, written down beside them: labels themselves must not depend on how fast a machine was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.cost_model import CostModel, Size
from aiida_mlipal.workflows.attempts import SHARED, attempts, shared_tasks
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.outputs import outputs_of
from aiida_mlipal.workflows.timing import cores_of, job_seconds

__all__ = ('collect_costs', 'measured_costs')

#: A fit needs no more than the latest so many chunks.
_LATEST_CHUNKS: Final = 50
_LANE: Final = 'LabelLaneWorkChain'
#: What engines call a task that labels a whole chunk.
_CHUNK: Final = 'chunk'


def _lane_of(output: orm.Data) -> orm.WorkChainNode | None:
    """Return the lane under which ``output`` was made."""
    process = output.creator
    while process is not None and process.process_label != _LANE:
        process = process.caller
    return process


def _jobs_by_task(chunk: ConfigurationsData) -> dict[str, list[orm.CalcJobNode]]:
    """Return all jobs that were run for the tasks of a label chunk, failed attempts included, oldest first."""
    jobs: dict[str, list[orm.CalcJobNode]] = {}
    for task, output in _results(chunk).items():
        lane = None if task in jobs else _lane_of(output)
        for name, processes in attempts(lane).items() if lane is not None else ():
            called = [
                node
                for process in processes
                for node in (process.called_descendants if isinstance(process, orm.WorkChainNode) else [process])
            ]
            found = (node for node in called if isinstance(node, orm.CalcJobNode))
            jobs[name] = sorted(found, key=lambda job: int(job.pk))
    return jobs


def _results(chunk: ConfigurationsData) -> dict[str, orm.Data]:
    """Return what the tasks of a chunk left, by task: what it was collected from, or the chunk if a job wrote it."""
    if isinstance(chunk.creator, orm.CalcJobNode):
        return {_CHUNK: chunk}
    inputs = chunk.creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC).all()
    return {link.link_label: link.node for link in inputs if link.link_label.startswith(('frame_', SHARED, _CHUNK))}


def measured_costs(level_of_theory_hash: str) -> CostModel:
    """Return the cost model fitted to the labels of this level of theory that the profile holds."""
    query = orm.QueryBuilder().append(
        orm.CalcFunctionNode, filters={'attributes.process_label': 'collect_costs'}, tag='collected'
    )
    query.append(
        orm.Dict,
        with_incoming='collected',
        filters={'attributes.level_of_theory_hash': level_of_theory_hash},
        project=['attributes'],
    )
    query.order_by({orm.Dict: {'id': 'desc'}}).limit(_LATEST_CHUNKS)
    sizes, seconds = [], []
    for costs in query.all(flat=True):
        for cost, electrons, kpoints in zip(costs['core_s'], costs['n_electrons'], costs['n_kpoints'], strict=True):
            if cost > 0 and electrons and kpoints:
                sizes.append(Size(electrons, kpoints))
                seconds.append(cost)
    return CostModel.fit(sizes, seconds)


def _seconds_of_frames(job: orm.CalcJobNode, tasks: Sequence[str]) -> dict[str, float]:
    """Return what each frame of a chunk took in the one job that labelled all of it: its own time and an even share of
    what the job spent besides."""
    total = job_seconds(job)
    own = [0.0] * len(tasks)
    outputs = outputs_of(job)
    if total and 'results' in outputs:
        own = [seconds or 0.0 for seconds in outputs['results'].get_dict().get('frame_wall_s', own)]
    rest = max(0.0, total - sum(own)) / len(tasks)
    return {task: seconds + rest for task, seconds in zip(tasks, own, strict=True)}


def _seconds_of_tasks(job: orm.CalcJobNode, tasks: Sequence[str]) -> dict[str, float]:
    """Return what tasks took in a job: in a shared one their own time, or an even part of what those that said nothing
    have used up."""
    shared = shared_tasks(job)
    if not shared or job.base.caching.is_created_from_cache:
        return dict.fromkeys(tasks, job_seconds(job))
    outputs = outputs_of(job)
    said = outputs['results']['frames'] if 'results' in outputs else {}
    own = {name: float(said.get(name, {}).get('wall_time_seconds') or 0.0) for name in shared}
    rest = max(0.0, job_seconds(job) - sum(own.values())) / max(1, list(own.values()).count(0.0))
    return {task: own[task] or rest for task in tasks}


@calcfunction
def collect_costs(chunk: ConfigurationsData, engine: orm.Str) -> orm.Dict:
    """Return what each label of a chunk cost, all attempts and failures included, in lists by frame.

    ``wall_s`` and ``core_s`` (seconds times cores), ``n_attempts``, and the size of the last calculation
    (``n_electrons``, ``n_kpoints``; ``None`` where it failed). Where one job labelled the whole chunk, what it spent
    beside the frames is shared evenly among them.

    :param chunk: as the engine collected it: the jobs are found through the processes that made it.
    """
    label_engine = load_engine(engine.value)
    frames = chunk.configurations
    tasks = [frame_key(index) for index in range(len(frames))]
    labelled = dict(zip(tasks, frames.is_labelled, strict=True))
    jobs_by_task, seconds_in = _jobs_by_task(chunk), _seconds_of_tasks
    if _CHUNK in jobs_by_task:
        jobs_by_task, seconds_in = dict.fromkeys(tasks, jobs_by_task[_CHUNK]), _seconds_of_frames
    # Each job is read once, whatever the number of frames that it labelled.
    tasks_in: dict[orm.CalcJobNode, list[str]] = {}
    for task in tasks:
        for job in jobs_by_task.get(task, []):
            tasks_in.setdefault(job, []).append(task)
    wall, core = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0.0)
    sizes: dict[str, Size] = {}
    for job, own in tasks_in.items():
        cores = cores_of(job.get_option('resources') or {})
        for task, seconds in seconds_in(job, own).items():
            wall[task] += seconds
            core[task] += seconds * cores
        done = [task for task in own if labelled[task] and jobs_by_task[task][-1] == job]
        sizes |= label_engine.sizes(job, done) if done else {}
    return orm.Dict(
        {
            'frame_ids': frames.frame_id.tolist(),
            'level_of_theory_hash': chunk.level_of_theory_hash,
            'wall_s': list(wall.values()),
            'core_s': list(core.values()),
            'n_attempts': [len(jobs_by_task.get(task, [])) for task in tasks],
            'n_electrons': [sizes[task].n_electrons if task in sizes else None for task in tasks],
            'n_kpoints': [sizes[task].n_kpoints if task in sizes else None for task in tasks],
        }
    )
