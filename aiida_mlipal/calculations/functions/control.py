"""What a campaign saved against one that picks at random: both judged on the same frames, which neither trained on."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.dataset import join
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.learning_curves import LearningCurve, Saving, label_saving
from aiida_mlipal.science.metrics import FrameErrors, frame_errors, summary
from aiida_mlipal.science.stream import STREAM

__all__ = ('ARMS', 'common_test_set', 'compare_arms', 'control_selection')

#: The campaign itself, and the one that it is held against.
ARMS = ('campaign', 'control')
_MODEL = re.compile(rf'({"|".join(ARMS)})_(iteration_\d+)')


@calcfunction
def control_selection(selection: orm.Dict, method: orm.Str) -> orm.Dict:
    """Return the selection settings of the control arm: the method is another, all else is equal."""
    return orm.Dict({**selection.get_dict(), 'method': method.value})


@calcfunction
def common_test_set(campaign: ConfigurationsData, control: ConfigurationsData) -> ConfigurationsData:
    """Return the labelled frames of both random streams that neither arm trained on.

    :raises ValueError: if there are none.
    """
    arms = {'campaign': campaign, 'control': control}
    frames, level = join(arms)
    held = [node.configurations for node in arms.values()]
    learned = np.concatenate([part.frame_id[part.has_role('train', 'validation')] for part in held])
    unseen = frames.has_role(*STREAM) & frames.is_labelled & ~np.isin(frames.frame_id, learned)
    if not unseen.any():
        raise ValueError('the two arms have no labelled random frame that neither of them trained on.')
    return ConfigurationsData(frames.take(unseen), level_of_theory=level)


@calcfunction
def compare_arms(
    test: ConfigurationsData, seed: orm.Int, initial: ConfigurationsData | None = None, **nodes: orm.Data
) -> orm.Dict:
    """Return both learning curves on the frames ``test``, and the saving in labels at equal force error.

    ``nodes`` are, for each arm and model, ``campaign_iteration_00`` (its evaluation of ``test``) and
    ``campaign_iteration_00_dataset`` (what it was trained on). Labels are counted as they were paid, those of the
    random stream and rejected ones included, without isolated atoms and without the ``initial`` dataset.
    """
    initial_ids = set() if initial is None else set(initial.configurations.frame_id.tolist())
    arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    errors: dict[str, list[FrameErrors]] = {arm: [] for arm in ARMS}
    for name in sorted(nodes):
        match = _MODEL.fullmatch(name)
        if match is None:
            continue
        evaluation, dataset = nodes[name], nodes[f'{name}_dataset']
        assert isinstance(evaluation, EvaluationData)
        assert isinstance(dataset, ConfigurationsData)
        found = frame_errors(test.configurations, evaluation.evaluation, STREAM)
        arms[match[1]].append({'model': match[2], 'n_labels': _n_paid(dataset, initial_ids), **summary(found)})
        errors[match[1]].append(found)
    atoms = test.configurations
    curves = [
        LearningCurve(
            np.array([point['n_labels'] for point in arms[arm]]),
            np.array([found.force_sq_error for found in errors[arm]]),
        )
        for arm in ARMS
    ]
    saving = label_saving(*curves, weights=atoms.n_atoms, clusters=atoms.trajectory, seed=seed.value)
    return orm.Dict(
        {
            'arms': arms,
            'saving': saving.to_dict(),
            'sentence': _sentence(saving, len(atoms)),
            'n_frames': len(atoms),
            'n_trajectories': saving.n_clusters,
        }
    )


def _n_paid(dataset: ConfigurationsData, initial_ids: set[str]) -> int:
    """Return how many labels were asked for. The curve begins at one: there is a dataset that was paid before."""
    frames = dataset.configurations
    paid = frames.frame_id[~frames.has_role('isolated_atom')]
    return max(1, sum(frame not in initial_ids for frame in paid.tolist()))


def _sentence(saving: Saving, n_frames: int) -> str:
    """Return the finding in words, whichever way it goes."""
    text = (
        f'For a force RMSE of {1000 * saving.target:.1f} meV/Å on {n_frames} common random frames of '
        f'{saving.n_clusters} trajectories the campaign needed {saving.n_strategy:.0f} labels and the control arm '
        f'{saving.n_reference:.0f}: {saving.ratio:.2f} times as many'
    )
    if not np.isfinite(saving.low):
        return f'{text}. One trajectory says nothing of how sure that is.'
    interval = f' ({saving.confidence:.0%} interval {saving.low:.2f} to {saving.high:.2f})'
    if saving.low > 1:
        verdict = f'a saving of {1 - 1 / saving.ratio:.0%}'
    elif saving.high < 1:
        verdict = f'a loss: {1 / saving.ratio - 1:.0%} more labels than the control arm'
    else:
        verdict = 'the interval includes 1, so neither a saving nor a loss is shown'
    return f'{text}{interval}, {verdict}.'
