"""What labels cost, written down beside them: labels themselves must not depend on how fast a machine was."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.cost_model import CostModel, Size
from aiida_mlipal.workflows.attempts import attempts, shared_tasks
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.engines.base import LabelEngine
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
    return {link.link_label: link.node for link in inputs if link.link_label.startswith(('frame_', _CHUNK))}


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


def _frame_seconds(job: orm.CalcJobNode, n_frames: int) -> list[float]:
    """Return what each frame of a chunk took in the one job that labelled all of it: its own time and an even share of
    what the job spent besides."""
    total = job_seconds(job)
    own = [0.0] * n_frames
    if total and 'results' in job.outputs:
        own = [seconds or 0.0 for seconds in job.outputs.results.get_dict().get('frame_wall_s', own)]
    rest = max(0.0, total - sum(own)) / n_frames
    return [seconds + rest for seconds in own]


def _task_seconds(job: orm.CalcJobNode, task: str) -> float:
    """Return what a task took in a job: in a shared one its own time, or an even part of what those that said nothing
    have used up."""
    tasks = shared_tasks(job)
    if not tasks or job.base.caching.is_created_from_cache:
        return job_seconds(job)
    said = job.outputs.results['frames'] if 'results' in job.outputs else {}
    own = {name: float(said.get(name, {}).get('wall_time_seconds') or 0.0) for name in tasks}
    if own[task]:
        return own[task]
    return max(0.0, job_seconds(job) - sum(own.values())) / list(own.values()).count(0.0)


def _size(engine: LabelEngine, job: orm.CalcJobNode, task: str) -> Size | None:
    """Return the size of a calculation that ended well."""
    done = engine.result(job, task) is not None if shared_tasks(job) else job.is_finished_ok
    return engine.size(job, task) if done else None


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
    rows: dict[str, list[Any]] = {name: [] for name in ('wall_s', 'core_s', 'n_attempts', 'n_electrons', 'n_kpoints')}
    jobs_by_task = _jobs_by_task(chunk)
    shared = _CHUNK in jobs_by_task
    chunk_jobs = jobs_by_task.get(_CHUNK, [])
    chunk_seconds = [_frame_seconds(job, len(frames)) for job in chunk_jobs]
    numbers = np.add.reduceat(frames.numbers, frames.offsets[:-1]).tolist()
    for index in range(len(frames)):
        task = frame_key(index)
        jobs = chunk_jobs if shared else jobs_by_task.get(task, [])
        seconds = [own[index] for own in chunk_seconds] if shared else [_task_seconds(job, task) for job in jobs]
        cores = [cores_of(job.get_option('resources') or {}) for job in jobs]
        size = _size(label_engine, jobs[-1], task) if jobs and not shared else None
        if shared and jobs and jobs[-1].is_finished_ok:
            size = Size(float(numbers[index]))  # of a job for a whole chunk, the engine could only tell the mean
        rows['wall_s'].append(sum(seconds))
        rows['core_s'].append(sum(s * c for s, c in zip(seconds, cores, strict=True)))
        rows['n_attempts'].append(len(jobs))
        rows['n_electrons'].append(size.n_electrons if size else None)
        rows['n_kpoints'].append(size.n_kpoints if size else None)
    ids = frames.frame_id.tolist()
    return orm.Dict({'frame_ids': ids, 'level_of_theory_hash': chunk.level_of_theory_hash, **rows})
