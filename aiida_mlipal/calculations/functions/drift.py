"""How far an iteration went beyond what its models were trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from numpy.typing import NDArray

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.drift import drift, energy_z_scores
from aiida_mlipal.science.stream import STREAM

__all__ = ('measure_drift',)


@calcfunction
def measure_drift(
    pool: ConfigurationsData,
    evaluation: EvaluationData,
    dataset: ConfigurationsData,
    dataset_evaluation: EvaluationData,
) -> orm.Dict:
    """Return :func:`aiida_mlipal.science.drift.drift` of the whole pool, and of the random stream in it.

    The pool holds what was kept of the visited frames, the farthest apart; the stream is a fair sample of them, but
    small.
    """
    frames, predicted = pool.configurations, evaluation.evaluation
    known = dataset.configurations
    training = known.take(known.is_labelled & known.has_role('train', 'validation'))
    rows = predicted.index_of(frames.frame_id)
    own = dataset_evaluation.evaluation
    reference = own.descriptors[own.index_of(training.frame_id)]
    scores = energy_z_scores(training, training.energy, frames, predicted.energy[rows])

    def figures(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        """Return the figures of some rows of the pool."""
        return drift(reference, predicted.descriptors[rows][chosen], scores[chosen])

    return orm.Dict({'pool': figures(np.ones(len(frames), dtype=bool)), 'stream': figures(frames.has_role(*STREAM))})
