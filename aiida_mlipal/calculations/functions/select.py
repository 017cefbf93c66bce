"""Calibrate the uncertainty, then decide which frames are worth a label."""

from __future__ import annotations

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.science.calibration import Calibration, calibrate
from aiida_mlipal.science.prescreen import PrescreenSettings, agreements
from aiida_mlipal.science.selection import SelectionSettings, decide
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.stream import STREAM
from aiida_mlipal.science.uncertainty import measure

__all__ = ('calibrate_uncertainty', 'select_candidates', 'select_frames')


@calcfunction
def select_candidates(pool: ConfigurationsData) -> ConfigurationsData:
    """Return the frames of a pool that a cheap level looks at: all but the random stream, which must stay unbiased."""
    frames = pool.configurations
    return ConfigurationsData(frames.take(frames.has_role('candidate')))


@calcfunction
def calibrate_uncertainty(dataset: ConfigurationsData, evaluation: EvaluationData, selection: orm.Dict) -> orm.Dict:
    """Return the calibration of a committee and the trust window that follows from it.

    Fitted on the ``calibration`` half of the random stream alone. While that is empty, as in the first iteration, the
    result says so, and no window is applied.
    """
    settings = from_dict(SelectionSettings, selection.get_dict())
    calibration = calibrate(
        dataset.configurations,
        evaluation.evaluation,
        lower_factor=settings.lower_factor,
        upper_factor=settings.upper_factor,
        n_members=evaluation.n_members,
    )
    return orm.Dict({'fitted': calibration is not None, **(calibration.to_dict() if calibration else {})})


@calcfunction
def select_frames(
    pool: ConfigurationsData,
    evaluation: EvaluationData,
    exploration: orm.Dict,
    dataset: ConfigurationsData,
    dataset_evaluation: EvaluationData,
    calibration: orm.Dict,
    selection: orm.Dict,
    budget: orm.Dict,
    decision: orm.Dict,
    seed: orm.Int,
    prescreen: ConfigurationsData | None = None,
    prescreen_settings: orm.Dict | None = None,
) -> dict[str, orm.Data]:
    """Return the decision, with a row for every candidate, and the frames to label.

    ``exploration`` holds the uncertainty of every visited frame: the share of uncertain frames refers to those, and
    not to the pool, which is thinned. ``decision`` is the one before; it knows the iteration and the labels spent.
    ``prescreen`` holds the labels of a cheap level: where it agrees with the model, a candidate is not labelled.
    """
    settings = from_dict(SelectionSettings, selection.get_dict())
    known, predicted = dataset.configurations, dataset_evaluation.evaluation
    values = calibration.get_dict()
    fitted = Calibration.from_dict(values) if values.pop('fitted') else None
    trained = known.frame_id[known.is_labelled & known.has_role('train', 'validation')]
    streamed = known.frame_id[known.has_role(*STREAM) & np.isin(known.frame_id, predicted.frame_id)]
    max_labels = budget.get_dict().get('max_labels')
    agreed = {}
    if prescreen is not None and prescreen_settings is not None:
        limits = from_dict(PrescreenSettings, prescreen_settings.get_dict())
        agreed = agreements(prescreen.configurations, evaluation.evaluation, limits)
    reference = predicted.descriptors[predicted.index_of(trained)]
    ours = evaluation.evaluation.take(evaluation.evaluation.index_of(pool.configurations.frame_id))
    uncertainty = measure(settings.uncertainty, ours, reference).per_frame
    choice = decide(
        pool.configurations,
        evaluation.evaluation,
        reference,
        settings=settings,
        seed=seed.value,
        iteration=decision['iteration'] + 1,
        thresholds=fitted.thresholds if fitted else None,
        uncertainty=uncertainty,
        calibrated=fitted.expected_errors(uncertainty) if fitted else None,
        max_labels=None if max_labels is None else max(0, max_labels - decision['n_labels']),
        known_frame_ids=set(known.frame_id.tolist()),
        agreed=agreed,
        stream_descriptors=predicted.descriptors[predicted.index_of(streamed)],
    )
    visited = np.asarray(exploration['visited_max_forces_std'], dtype=float)
    share = float(np.mean(visited * fitted.alpha > fitted.thresholds.lower)) if fitted and visited.size else None
    frames = pool.configurations.take(pool.configurations.index_of(choice.selected_ids))
    role = np.where(frames.role == 'candidate', 'train', frames.role)
    return {
        'selection': SelectionData(choice, uncertain_share=share),
        'frames': ConfigurationsData(frames.with_columns(role=role)),
    }
