"""What labels cost, written down beside them: labels themselves must not depend on how fast a machine was."""

from __future__ import annotations

from math import prod
from typing import Any, Final

from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.cost_model import CostModel, Size
from aiida_mlipal.workflows.engines import load_engine

__all__ = ('attempt_label', 'collect_costs', 'cores_of', 'measured_costs')

#: A fit needs no more than the latest so many chunks.
_LATEST_CHUNKS: Final = 50
_LANE: Final = 'LabelLaneWorkChain'


def attempt_label(task: str, attempt: int) -> str:
    """Return what a lane calls an attempt at a task; the first (1) is called like the task."""
    return task if attempt == 1 else f'{task}_attempt_{attempt}'


def cores_of(resources: dict[str, Any]) -> int:
    """Return the cores that a job asked its scheduler for."""
    ranks = resources.get('tot_num_mpiprocs') or prod(
        resources.get(name) or 1 for name in ('num_machines', 'num_mpiprocs_per_machine')
    )
    return int(ranks * (resources.get('num_cores_per_mpiproc') or 1))


def _wall_seconds(calculation: orm.CalcJobNode) -> float:
    """Return the seconds a job took: as the program says, else the scheduler, else from submission to the end."""
    if calculation.base.caching.is_created_from_cache:
        return 0.0
    for label, key in (('output_parameters', 'wall_time_seconds'), ('results', 'wall_s')):
        if label in calculation.outputs:
            said = calculation.outputs[label].get_dict().get(key)
            if said:
                return float(said)
    info = calculation.get_last_job_info()
    if info is not None and info.wallclock_time_seconds:
        return float(info.wallclock_time_seconds)
    return float((calculation.mtime - calculation.ctime).total_seconds())


def _attempts(output: orm.Data | None, task: str) -> list[orm.CalcJobNode]:
    """Return all jobs that were run for a task, oldest first, given what the last of them left."""
    process = None if output is None else output.creator
    while process is not None and process.caller is not None and process.caller.process_label != _LANE:
        process = process.caller
    if process is None or process.caller is None:
        return []
    jobs: list[orm.CalcJobNode] = []
    calls = process.caller.base.links.get_outgoing(link_type=(LinkType.CALL_CALC, LinkType.CALL_WORK)).all()
    for call in calls:
        if call.link_label == task or call.link_label.startswith(attempt_label(task, 2)[:-1]):
            below = call.node.called_descendants if isinstance(call.node, orm.WorkChainNode) else [call.node]
            jobs += [node for node in below if isinstance(node, orm.CalcJobNode)]
    return sorted(jobs, key=lambda job: job.pk)


def measured_costs(level_of_theory_hash: str) -> CostModel:
    """Return the cost model fitted to the labels of this level of theory that the profile holds."""
    query = orm.QueryBuilder().append(
        ConfigurationsData, filters={'attributes.level_of_theory_hash': level_of_theory_hash}, tag='chunk'
    )
    query.append(orm.CalcFunctionNode, with_outgoing='chunk', tag='collected')
    query.append(orm.WorkChainNode, with_outgoing='collected', tag='labelling')
    query.append(orm.CalcFunctionNode, with_incoming='labelling', filters={'attributes.process_label': 'collect_costs'}, tag='costs')
    query.append(orm.Dict, with_incoming='costs', project=['id', 'attributes'])
    rows = {pk: attributes for pk, attributes in query.distinct().all()}
    sizes, seconds = [], []
    for pk in sorted(rows)[-_LATEST_CHUNKS:]:
        costs = rows[pk]
        for cost, electrons, kpoints in zip(costs['core_s'], costs['n_electrons'], costs['n_kpoints'], strict=True):
            if cost > 0 and electrons and kpoints:
                sizes.append(Size(electrons, kpoints))
                seconds.append(cost)
    return CostModel.fit(sizes, seconds)


@calcfunction
def collect_costs(frames: ConfigurationsData, engine: orm.Str, **results: orm.Data) -> orm.Dict:
    """Return what each label of a chunk cost, all attempts and failures included, in lists by frame.

    ``wall_s`` and ``core_s`` (seconds times cores), ``n_attempts``, and the size of the last calculation
    (``n_electrons``, ``n_kpoints``; ``None`` where it failed). Where one job labelled the whole chunk, its cost is shared
    evenly among the frames.
    """
    label_engine = load_engine(engine.value)
    ids = frames.configurations.frame_id.tolist()
    rows: dict[str, list[Any]] = {name: [] for name in ('wall_s', 'core_s', 'n_attempts', 'n_electrons', 'n_kpoints')}
    shared = results.get('chunk')
    for index in range(len(ids)):
        output = shared or results.get(frame_key(index))
        jobs = _attempts(output, 'chunk' if shared else frame_key(index))
        share = len(ids) if shared else 1
        seconds = [_wall_seconds(job) for job in jobs]
        cores = [cores_of(job.get_option('resources') or {}) for job in jobs]
        size = label_engine.size(jobs[-1]) if jobs and jobs[-1].is_finished_ok else None
        rows['wall_s'].append(sum(seconds) / share)
        rows['core_s'].append(sum(s * c for s, c in zip(seconds, cores, strict=True)) / share)
        rows['n_attempts'].append(len(jobs))
        rows['n_electrons'].append(size.n_electrons if size else None)
        rows['n_kpoints'].append(size.n_kpoints if size else None)
    return orm.Dict({'frame_ids': ids, **rows})
