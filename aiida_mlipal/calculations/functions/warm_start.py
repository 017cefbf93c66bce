"""The plan of a training that goes on from an earlier committee: its settings, and how often it looks at each frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from numpy.typing import NDArray

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.warm_start import WarmStartSettings, choose_copies, warm_settings

__all__ = ('plan_warm_start',)


@calcfunction
def plan_warm_start(
    model: MlipModelData,
    dataset: ConfigurationsData,
    dataset_evaluation: EvaluationData,
    pool_evaluation: EvaluationData,
    training: orm.Dict,
    warm_start: orm.Dict,
) -> dict[str, orm.Data]:
    """Return ``settings`` and ``copies`` for a training in which the members of ``model`` go on with ``dataset``.

    New are the frames that ``model`` was not evaluated on with the dataset it learned from. How hard a frame is follows
    from its labels and what ``model`` said of it, before it was labelled in the case of new frames.

    :param training: settings of the training from scratch; its first seed draws the frames that are replayed.
    """
    settings = from_dict(WarmStartSettings, warm_start.get_dict())
    frames = dataset.configurations
    frames = frames.take(frames.is_labelled & frames.has_role('train'))
    error = np.full(len(frames), np.nan)
    for node in (pool_evaluation, dataset_evaluation):
        error = _force_error(frames, node.evaluation, error)
    new = ~np.isin(frames.frame_id, dataset_evaluation.evaluation.frame_id)
    given = training.get_dict()
    if given.get('uncertainty') in ('llpr', 'heads'):  # it follows from all frames that the model has learned
        settings = replace(settings, replay=1.0)
    copies = choose_copies(frames.frame_id, error, new, settings, seed=given['seeds'][0])
    return {
        'settings': orm.Dict(warm_settings(given, settings, model.seeds)),
        'copies': orm.ArrayData({'frame_id': frames.frame_id, 'copies': copies}),
    }


def _force_error(frames: Any, evaluation: Any, error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``error`` with the force RMSE (eV/Å) of each frame that was evaluated."""
    known = np.flatnonzero(np.isin(frames.frame_id, evaluation.frame_id))
    if not len(known):
        return error
    some = frames.take(known)
    predicted = evaluation.take(evaluation.index_of(some.frame_id))
    squares = ((predicted.forces - some.forces) ** 2).mean(axis=1)
    result = error.copy()
    result[known] = np.sqrt(np.add.reduceat(squares, some.offsets[:-1]) / some.n_atoms)
    return result
