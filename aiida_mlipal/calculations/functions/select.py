"""Decide which frames are worth a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from numpy.typing import NDArray

from aiida_mlipal.calculations.functions.calibrate import fitted_calibration
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.science.calibration import Calibration
from aiida_mlipal.science.decision import Decision
from aiida_mlipal.science.prescreen import PrescreenSettings, agreements
from aiida_mlipal.science.selection import decide
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.stream import STREAM
from aiida_mlipal.science.uncertainty import measure

__all__ = ('choose_frames', 'select_candidates', 'select_frames')


@calcfunction
def select_candidates(pool: ConfigurationsData) -> ConfigurationsData:
    """Return the frames of a pool that a cheap level looks at: all but the random stream, which must stay unbiased."""
    frames = pool.configurations
    return ConfigurationsData(frames.take(frames.has_role('candidate')))


def choose_frames(
    inputs: Mapping[str, Any], settings: SelectionSettings, costs: NDArray[np.float64] | None
) -> Decision:
    """Return the decision that :func:`select_frames` makes from its ``inputs``, or another with other settings.

    :param costs: (F,) core seconds to expect of a label of each frame of the pool, for methods that look at it.
    """
    pool, evaluation = inputs['pool'].configurations, inputs['evaluation'].evaluation
    known, predicted = inputs['dataset'].configurations, inputs['dataset_evaluation'].evaluation
    fitted = fitted_calibration(inputs['calibration'])
    trained = known.frame_id[known.is_labelled & known.has_role('train', 'validation')]
    is_predicted = np.isin(known.frame_id, predicted.frame_id) & ~known.has_role('isolated_atom')
    is_stream = known.has_role(*STREAM)
    streamed = known.frame_id[is_stream & is_predicted]
    spent = known.frame_id[~is_stream & is_predicted & ~np.isin(known.frame_id, trained)]
    max_labels = inputs['budget'].get_dict().get('max_labels')
    agreed = {}
    if inputs.get('prescreen') is not None and inputs.get('prescreen_settings') is not None:
        limits = from_dict(PrescreenSettings, inputs['prescreen_settings'].get_dict())
        agreed = agreements(inputs['prescreen'].configurations, evaluation, limits)
    reference = predicted.descriptors[predicted.index_of(trained)]
    ours = evaluation.take(evaluation.index_of(pool.frame_id))
    name = fitted.uncertainty if fitted else settings.uncertainty
    uncertainty = measure(name, ours, reference).per_frame
    return decide(
        pool,
        evaluation,
        reference,
        settings=settings,
        seed=inputs['seed'].value,
        iteration=inputs['decision']['iteration'] + 1,
        thresholds=fitted.thresholds if fitted else None,
        uncertainty=uncertainty,
        calibrated=fitted.expected_errors(uncertainty, ours.n_atoms) if fitted else None,
        max_labels=None if max_labels is None else max(0, max_labels - inputs['decision']['n_labels']),
        known=known,
        agreed=agreed,
        stream_descriptors=predicted.descriptors[predicted.index_of(streamed)],
        spent_descriptors=predicted.descriptors[predicted.index_of(spent)],
        costs=costs,
    )


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
    costs: orm.Dict | None = None,
) -> dict[str, orm.Data]:
    """Return the decision, with a row for every candidate, and the frames to label.

    ``exploration`` holds the uncertainty of every frame that unbiased plans visited: the share of uncertain frames
    refers to those, and not to the pool, which is thinned and holds what biased plans went to look for. ``decision`` is
    the one before; it knows the iteration and the labels spent. ``prescreen`` holds the labels of a cheap level: where
    it agrees with the model, a candidate is not labelled.
    ``costs`` is what :func:`.costs.predict_costs` expects labels to take, for methods that look at it.
    """
    inputs = {
        'pool': pool, 'evaluation': evaluation, 'dataset': dataset, 'dataset_evaluation': dataset_evaluation,
        'calibration': calibration, 'budget': budget, 'decision': decision, 'seed': seed, 'prescreen': prescreen,
        'prescreen_settings': prescreen_settings,
    }  # fmt: skip
    settings = from_dict(SelectionSettings, selection.get_dict())
    choice = choose_frames(inputs, settings, None if costs is None else np.asarray(costs['core_s'], dtype=float))
    share = _uncertain_share(fitted_calibration(calibration), exploration, pool.configurations.n_atoms, choice)
    frames = pool.configurations.take(pool.configurations.index_of(choice.selected_ids))
    role = np.where(frames.role == 'candidate', 'train', frames.role)
    return {
        'selection': SelectionData(choice, uncertain_share=share),
        'frames': ConfigurationsData(frames.with_columns(role=role)),
    }


def _uncertain_share(
    fitted: Calibration | None, exploration: orm.Dict, n_atoms: NDArray[np.int64], choice: Decision
) -> float | None:
    """Return the share of unbiased frames whose expected error is above the beginning of the trust window.

    What replicas did not reach because they were stopped counts as uncertain: else a model that breaks early would look
    better than one that lasts. The exploration tells the largest spread of every visited frame, and nothing else of it.
    Where that does not suffice, because another measure is calibrated or the frames differ in size, the random stream
    stands for what was visited: few frames, but drawn from all of them.

    :param n_atoms: of the frames of the pool.
    """
    if fitted is None:
        return None
    visited = np.asarray(exploration['unbiased_max_forces_std'], dtype=float)
    n_unreached = int(exploration['n_unreached'])
    if not len(visited):
        return 1.0 if n_unreached else None
    sizes = np.unique(n_atoms)
    if fitted.uncertainty == 'forces_max' and len(sizes) == 1:
        expected = fitted.expected_errors(visited, np.full(len(visited), sizes[0]))
    else:
        expected = choice.calibrated[choice.klass == 'stream']
    if not len(expected):
        return None
    reached = len(visited) / (len(visited) + n_unreached)
    return 1.0 - reached * float(np.mean(expected <= fitted.lower))
