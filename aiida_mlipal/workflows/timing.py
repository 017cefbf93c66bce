"""How long a job took, on how many cores and GPUs."""

from __future__ import annotations

from math import prod
from typing import Any

from aiida import orm

from aiida_mlipal.workflows.outputs import outputs_of

__all__ = ('cores_of', 'gpus_of', 'job_seconds', 'wall_seconds')


def cores_of(resources: dict[str, Any]) -> int:
    """Return the cores that a job asked its scheduler for."""
    ranks = resources.get('tot_num_mpiprocs') or resources.get('num_cpus')  # num_cpus: HyperQueue
    ranks = ranks or prod(resources.get(name) or 1 for name in ('num_machines', 'num_mpiprocs_per_machine'))
    return int(ranks * (resources.get('num_cores_per_mpiproc') or 1))


def gpus_of(resources: dict[str, Any], gpus: int | None) -> int:
    """Return the GPUs that a job had for itself.

    :param gpus: the option ``gpus``, per machine. A request in ``custom_scheduler_commands`` is not read.
    """
    return int((gpus or 0) * (resources.get('num_machines') or 1))


def job_seconds(calculation: orm.CalcJobNode) -> float:
    """Return the seconds a job took: as the program says, else the scheduler, else from submission to the end."""
    if calculation.base.caching.is_created_from_cache:
        return 0.0
    outputs = outputs_of(calculation)
    for label, key in (('output_parameters', 'wall_time_seconds'), ('results', 'wall_s')):
        if label in outputs:
            said = outputs[label].get_dict().get(key)
            if said:
                return float(said)
    info = calculation.get_last_job_info()
    if info is not None and info.wallclock_time_seconds:
        return float(info.wallclock_time_seconds)
    return float((calculation.mtime - calculation.ctime).total_seconds())


def wall_seconds(process: orm.ProcessNode) -> float:
    """Return the seconds that a process and all jobs under it took."""
    nodes = [process, *process.called_descendants] if isinstance(process, orm.WorkChainNode) else [process]
    return sum(job_seconds(node) for node in nodes if isinstance(node, orm.CalcJobNode))
