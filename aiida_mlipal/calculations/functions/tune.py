"""The steps of a search for training settings that create nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.tuning import TuningSettings, choose_size, committee_sizes, grid

__all__ = (
    'grid_settings',
    'largest_committee',
    'point_settings',
    'recommended_settings',
    'tuning_table',
    'validation_frames',
)


def point_settings(settings: dict[str, Any], search: TuningSettings, point: dict[str, Any]) -> dict[str, Any]:
    """Return the training settings of one point of the grid: plain members, whatever their uncertainty will be."""
    return {**settings, **point, 'uncertainty': 'ensemble', 'seeds': search.seeds(search.n_seeds)}


@calcfunction
def grid_settings(settings: orm.Dict, search: orm.Dict) -> dict[str, orm.Dict]:
    """Return the training settings of each point of the grid: ``point_000``, ``point_001``, ..."""
    options = from_dict(TuningSettings, search.get_dict())
    return {
        f'point_{index:03d}': orm.Dict(point_settings(settings.get_dict(), options, point))
        for index, point in enumerate(grid(options))
    }


@calcfunction
def largest_committee(settings: orm.Dict, search: orm.Dict, grid: orm.Dict) -> orm.Dict:
    """Return the training settings of the largest committee, at the best point of the grid."""
    options = from_dict(TuningSettings, search.get_dict())
    seeds = options.seeds(options.max_members)
    return orm.Dict({**settings.get_dict(), **grid['recommended'], 'seeds': seeds})


@calcfunction
def validation_frames(dataset: ConfigurationsData, results: orm.Dict) -> ConfigurationsData:
    """Return the frames that validated a training, which no member has learned from."""
    frames = dataset.configurations
    chosen = np.isin(frames.frame_id, results['valid_frame_ids'])
    return ConfigurationsData(frames.take(chosen), level_of_theory=dataset.level_of_theory)


@calcfunction
def tuning_table(search: orm.Dict, grid: orm.Dict, **evaluations: EvaluationData) -> orm.Dict:
    """Return the table of the grid with that of the committee sizes.

    :param evaluations: what each member of the largest committee says of the validation frames.
    """
    options = from_dict(TuningSettings, search.get_dict())
    members = [evaluations[name].evaluation for name in sorted(evaluations)]
    ids = members[0].frame_id
    forces = np.array([member.take(member.index_of(ids)).forces for member in members])
    rows = committee_sizes(forces, options.seed)
    size = choose_size(rows, options.min_correlation)
    table = grid.get_dict()
    return orm.Dict({**table, 'committee': rows, 'recommended': {**table['recommended'], 'n_members': size}})


@calcfunction
def recommended_settings(settings: orm.Dict, search: orm.Dict, table: orm.Dict) -> dict[str, orm.Dict]:
    """Return the settings that the search has found.

    :returns: ``settings`` for a training, with seeds, and ``training`` for a campaign, which draws its seeds itself.
    """
    options = from_dict(TuningSettings, search.get_dict())
    found = dict(table['recommended'])
    n_members = found.pop('n_members', None)
    chosen = {**settings.get_dict(), **found}
    if n_members is not None:
        chosen['seeds'] = options.seeds(n_members)
    campaign = {key: value for key, value in chosen.items() if key not in ('seeds', 'split_seed')}
    return {
        'settings': orm.Dict(chosen),
        'training': orm.Dict({**campaign, 'n_members': len(chosen['seeds'])}),
    }
