"""The dataset of a campaign grows: new labels come in, and what each frame is for is recorded with them, once."""

from __future__ import annotations

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from numpy.typing import NDArray

from aiida_mlipal.calculations.functions.dataset import join
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.fingerprint import fingerprints
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.splits import record_roles
from aiida_mlipal.science.stream import STREAM, repeats_of_stream
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('grow_dataset',)


@calcfunction
def grow_dataset(
    labels: ConfigurationsData,
    training: orm.Dict,
    selection: orm.Dict,
    seed: orm.Int,
    dataset: ConfigurationsData | None = None,
    dataset_evaluation: EvaluationData | None = None,
    pool_evaluation: EvaluationData | None = None,
) -> ConfigurationsData:
    """Return the frames of ``dataset``, as they are, and those of ``labels`` with their roles decided.

    Of the new training frames ``valid_fraction`` of ``training`` get the role ``validation``, drawn by identity and
    ``seed``. Frames that are the same geometry as one of the random stream get the role ``withheld``: judged, as in the
    selection, by descriptors and ``duplicate_distance``, those of the model that both evaluations are by, or without
    them those of :mod:`~aiida_mlipal.science.fingerprint`. In a ``dataset`` without validation frames, as a user may
    bring one, all are new.

    :raises ValueError: if the labels differ in their level of theory, with the difference line by line.
    """
    parts = {'labels': labels} if dataset is None else {'dataset': dataset, 'labels': labels}
    merged, level = join(parts)
    new = np.ones(len(merged), dtype=bool)
    if dataset is not None and dataset.configurations.has_role('validation').any():
        new = ~np.isin(merged.frame_id, dataset.configurations.frame_id)
    evaluations = [node for node in (dataset_evaluation, pool_evaluation) if node is not None]
    grown = record_roles(
        merged,
        new=new,
        withheld=_withheld(merged, evaluations, from_dict(SelectionSettings, selection.get_dict()).duplicate_distance),
        fraction=training.get_dict().get('valid_fraction', TrainingSettings.valid_fraction),
        seed=seed.value,
    )
    return ConfigurationsData(grown, level_of_theory=level)


def _withheld(frames: Configurations, evaluations: list[EvaluationData], fraction: float) -> NDArray[np.bool_]:
    """Return which frames repeat one of the random stream, shape ``(F,)``."""
    result = np.zeros(len(frames), dtype=bool)
    rows = np.flatnonzero(frames.has_role('train', 'validation', *STREAM))
    stream = frames.has_role(*STREAM)
    if not stream.any():
        return result
    if evaluations:
        known = {frame: row for node in evaluations for frame, row in _descriptors(node).items()}
        rows = np.array([row for row in rows.tolist() if str(frames.frame_id[row]) in known], dtype=np.int64)
        descriptors = np.array([known[frame] for frame in frames.frame_id[rows].tolist()])
    else:
        descriptors = fingerprints(frames.take(rows))
    finite = np.isfinite(descriptors).all(axis=1)
    rows, descriptors = rows[finite], descriptors[finite]
    result[rows[repeats_of_stream(descriptors, stream[rows], fraction)]] = True
    return result


def _descriptors(node: EvaluationData) -> dict[str, NDArray[np.float64]]:
    """Return the descriptors of an evaluation by the identities of the frames."""
    evaluation = node.evaluation
    return dict(zip(evaluation.frame_id.tolist(), evaluation.descriptors, strict=True))
