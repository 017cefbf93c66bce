"""What labels of candidates will take, for a decision that looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.cost_model import MeasuredCosts, predict_costs

__all__ = ('join_costs', 'predict_label_costs')


@calcfunction
def predict_label_costs(pool: ConfigurationsData, dataset: ConfigurationsData, **measured: orm.Dict) -> orm.Dict:
    """Return the core seconds to expect of a label of each frame of the pool, and the model that says so.

    :param measured: what the labels of ``dataset`` took, see :func:`aiida_mlipal.workflows.costs.collect_costs`.
    """
    model, core_s = predict_costs(pool.configurations, dataset.configurations, join_costs(measured))
    return orm.Dict({'frame_ids': pool.configurations.frame_id.tolist(), 'core_s': core_s.tolist(), **asdict(model)})


def join_costs(measured: Mapping[str, orm.Dict]) -> MeasuredCosts:
    """Return the measurements of all chunks, in the order of their names."""
    columns: dict[str, list[Any]] = {name: [] for name in ('frame_ids', 'core_s', 'n_electrons', 'n_kpoints')}
    for _, node in sorted(measured.items()):
        content = node.get_dict()
        for name, values in columns.items():
            values.extend(content[name])
    return MeasuredCosts(
        frame_id=np.array(columns['frame_ids'], dtype=str),
        core_s=np.array(columns['core_s'], dtype=float),
        n_electrons=np.array(columns['n_electrons'], dtype=float),
        n_kpoints=np.array(columns['n_kpoints'], dtype=float),
    )
