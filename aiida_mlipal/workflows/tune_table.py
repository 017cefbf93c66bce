"""The table of a search for training settings: one row per point of the grid, also where the training failed."""

from __future__ import annotations

from typing import Any, Final

from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import calcfunction

from aiida_mlipal.science.tuning import best_point, summarise_members
from aiida_mlipal.workflows.timing import cores_of, gpus_of, job_seconds

__all__ = ('tabulate_grid',)

_TRAINING: Final = 'TrainWorkChain'


def _training(settings: orm.Dict) -> orm.WorkChainNode | None:
    """Return the (last) training with these settings."""
    links = settings.base.links.get_outgoing(link_type=LinkType.INPUT_WORK, link_label_filter='settings').all()
    found = [link.node for link in links if link.node.process_label == _TRAINING]
    return max(found, key=lambda node: int(node.pk), default=None)


def _cost(training: orm.WorkChainNode | None) -> dict[str, float]:
    """Return the seconds of a training's jobs, times the cores and the GPUs that they asked for."""
    cost = {'wall_s': 0.0, 'core_s': 0.0, 'gpu_s': 0.0}
    jobs = training.called if training is not None else []
    for job in (node for node in jobs if isinstance(node, orm.CalcJobNode)):
        seconds, resources = job_seconds(job), job.get_option('resources') or {}
        cost['wall_s'] += seconds
        cost['core_s'] += seconds * cores_of(resources)
        cost['gpu_s'] += seconds * gpus_of(resources, job.get_option('gpus'))
    return cost


def _row(settings: orm.Dict, results: list[orm.Dict]) -> dict[str, Any]:
    """Return the row of one point."""
    given = settings.get_dict()
    training = _training(settings)
    members = [member for result in results for member in result['members'].values()]
    row = {
        'lr': given['lr'],
        'batch_size': given['batch_size'],
        'seeds': given['seeds'],
        **summarise_members(members, given['seeds']),
        **_cost(training),
    }
    reason = ''
    if training is None:
        reason = 'the training was never started'
    elif not training.is_finished_ok:
        state = training.process_state.value if training.process_state else 'created'
        reason = training.exit_message or f'the training ended in the state `{state}`'
    elif row['force_rmse'] is None or row['energy_rmse_per_atom'] is None:
        reason = 'the errors on the validation frames are no numbers'
    return {**row, 'status': 'failed' if reason else 'ok', 'reason': reason}


@calcfunction
def tabulate_grid(**nodes: orm.Dict) -> orm.Dict:
    """Return the rows of the grid, and learning rate and batch size of the best one.

    :param nodes: the settings of each point (``point_000``) and the results of its jobs (``point_000_attempt_0``).
        Why a training failed, and what it cost, is read from the process that had these settings.
    :returns: ``grid``: rows with ``lr``, ``batch_size``, ``seeds``, ``status`` (``ok`` or ``failed``), ``reason``,
        ``score``, what :func:`~aiida_mlipal.science.tuning.summarise_members` returns, ``wall_s``, ``core_s`` and
        ``gpu_s``; ``recommended``: empty if every point failed.
    """
    points = sorted(name for name in nodes if '_attempt_' not in name)
    rows = [
        _row(nodes[point], [nodes[name] for name in sorted(nodes) if name.startswith(f'{point}_attempt_')])
        for point in points
    ]
    best, scores = best_point(rows)
    rows = [{**row, 'score': score} for row, score in zip(rows, scores, strict=True)]
    recommended = {} if best is None else {key: rows[best][key] for key in ('lr', 'batch_size')}
    return orm.Dict({'grid': rows, 'recommended': recommended})
