"""What a campaign cost: jobs, wall time, core time and GPU time per stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlipal.provenance.processes import Process
from aiida_mlipal.workflows.timing import cores_of, gpus_of

__all__ = ('StageCost', 'cost_per_stage')

#: process called by the campaign -> stage, in the order of the table.
_STAGES: Final = {
    'SeedsWorkChain': 'seeds',
    'LabelWorkChain': 'labels',
    'PrescreenWorkChain': 'prescreen',
    'TrainWorkChain': 'training',
    'ExploreWorkChain': 'exploration',
    'MaceEvaluateCalculation': 'evaluation',
    'ValidateWorkChain': 'validation',
}
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """Cost of one stage. ``elapsed_s`` runs from the first to the last moment of each call, waiting included."""

    stage: str
    n_jobs: int
    n_failed: int
    n_reused: int  #: taken from AiiDA's cache, at no cost
    job_s: float  #: wall time of all jobs, one after the other
    core_s: float  #: the same times the cores that each asked for
    gpu_s: float  #: the same times the GPUs that each asked for
    elapsed_s: float


def cost_per_stage(campaign: int, processes: Sequence[Process]) -> list[StageCost]:
    """Return the cost of each stage that has begun, in order."""
    by_pk = {process.pk: process for process in processes}
    stage_of: dict[int, str] = {}
    for process in processes:  # callers come before what they call
        stage = _STAGES.get(process.name) if process.caller == campaign else stage_of.get(process.caller)
        if stage is not None:
            stage_of[process.pk] = stage
    jobs = _job_times([process for process in processes if process.is_job and process.pk in stage_of])
    costs = []
    for stage in _STAGES.values():
        calls = [p for p in processes if p.caller == campaign and stage_of.get(p.pk) == stage]
        if not calls:
            continue
        here = [job for job in jobs if stage_of[job['pk']] == stage]
        costs.append(
            StageCost(
                stage=stage,
                n_jobs=len(here),
                n_failed=sum(not by_pk[job['pk']].is_ok and not by_pk[job['pk']].is_active for job in here),
                n_reused=sum(job['reused'] for job in here),
                job_s=sum(job['seconds'] for job in here),
                core_s=sum(job['seconds'] * job['cores'] for job in here),
                gpu_s=sum(job['seconds'] * job['gpus'] for job in here),
                elapsed_s=sum((_end(call) - call.started).total_seconds() for call in calls),
            )
        )
    return costs


def _end(process: Process) -> datetime:
    return datetime.now(process.started.tzinfo) if process.is_active else process.changed


def _job_times(jobs: Sequence[Process]) -> list[dict[str, Any]]:
    """Return cores, GPUs and seconds of each job: as the program says, else the scheduler, else from start to end."""
    pks = [job.pk for job in jobs]
    said: dict[int, float] = {}
    asked: dict[int, tuple[dict[str, Any], int | None, dict[str, Any], str | None]] = {}
    for start in range(0, len(pks), _BATCH):
        some = {'id': {'in': pks[start : start + _BATCH]}}
        query = orm.QueryBuilder().append(orm.CalcJobNode, filters=some, tag='job', project='id')
        edge = {'type': LinkType.CREATE.value, 'label': {'in': ['output_parameters', 'results']}}
        keys = ['attributes.wall_time_seconds', 'attributes.wall_s']
        query.append(orm.Dict, with_incoming='job', edge_filters=edge, project=keys)
        said.update({pk: float(first or second) for pk, first, second in query.all() if first or second})
        keys = [
            'id',
            'attributes.resources',
            'attributes.gpus',
            'attributes.last_job_info',
            'extras._aiida_cached_from',
        ]
        query = orm.QueryBuilder().append(orm.CalcJobNode, filters=some, project=keys)
        asked.update(
            {pk: (asked_for or {}, gpus, info or {}, source) for pk, asked_for, gpus, info, source in query.all()}
        )
    times = []
    for job in jobs:
        resources, gpus, info, source = asked[job.pk]
        seconds = said.get(job.pk) or info.get('wallclock_time_seconds') or (_end(job) - job.started).total_seconds()
        times.append(
            {
                'pk': job.pk,
                'cores': cores_of(resources),
                'gpus': gpus_of(resources, gpus),
                'reused': bool(source),
                'seconds': 0 if source else seconds,
            }
        )
    return times
