"""The plan of an iteration: seeds of every random choice in it, and where the simulations start."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.calibrate import fitted_calibration
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.calibration.fit import Calibration
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.starts import choose_starts, with_ends
from aiida_mlipal.science.uncertainty import size_factor

__all__ = ('plan_final_training', 'plan_iteration', 'settings_with_smaller_batch', 'start_campaign')

_TRAINING, _EXPLORATION, _STARTS = range(3)


def _derive(seed: int, iteration: int, purpose: int, count: int = 1) -> list[int]:
    """Return independent seeds for one purpose in one iteration."""
    state = np.random.SeedSequence([seed, iteration, purpose]).generate_state(count)
    return [int(value) % 2**31 for value in state]


def _training(training: dict[str, Any], seed: int, iteration: int) -> orm.Dict:
    """Return the training settings with a seed per committee member."""
    settings = dict(training)
    n_members = settings.pop('n_members')
    settings['seeds'] = _derive(seed, iteration, _TRAINING, n_members)
    settings['split_seed'] = seed % 2**31  # the same in all iterations: no frame of another head's dataset moves
    return orm.Dict(settings)


@calcfunction
def start_campaign(dataset: ConfigurationsData, initial: ConfigurationsData | None = None) -> orm.Dict:
    """Return the decision that stands before the first iteration. Labels of an ``initial`` dataset were paid before."""
    n_initial = 0 if initial is None else _n_labels(initial)
    return orm.Dict(
        {
            'outcome': 'continue',
            'iteration': -1,
            'below_target': 0,
            'n_initial': n_initial,
            'n_labels': _n_labels(dataset) - n_initial,
            'reasons': [],
        }
    )


def _n_labels(dataset: ConfigurationsData) -> int:
    """Return the number of frames that were given to the label engine, isolated atoms aside."""
    return int((~dataset.configurations.has_role('isolated_atom')).sum())


def _uncertainties(*evaluations: EvaluationData | None) -> dict[str, float]:
    """Return the uncertainty of every frame that was evaluated and has one, eV/Å."""
    known: dict[str, float] = {}
    for node in evaluations:
        if node is not None:
            evaluation = node.evaluation
            values = evaluation.max_forces_std
            finite = np.isfinite(values)
            known |= dict(zip(evaluation.frame_id[finite].tolist(), values[finite].tolist(), strict=True))
    return known


def _doubt(fitted: Calibration | None, starts: Configurations) -> float | None:
    """Return the uncertainty of an atom's force in eV/Å at which the trust window ends, for the largest start.

    None without a calibration, and for measures of the uncertainty that a running simulation does not know.
    """
    if fitted is None or fitted.uncertainty != 'forces_max' or not len(starts):
        return None
    grown = size_factor(fitted.uncertainty, starts.n_atoms.max(keepdims=True), fitted.n_members)
    return fitted.error_map.uncertainty_at(fitted.upper) * float(grown[0])


@calcfunction
def plan_iteration(
    dataset: ConfigurationsData,
    decision: orm.Dict,
    seed: orm.Int,
    training: orm.Dict,
    exploration: orm.Dict,
    selection: orm.Dict,
    pool: ConfigurationsData | None = None,
    pool_evaluation: EvaluationData | None = None,
    dataset_evaluation: EvaluationData | None = None,
    structures: ConfigurationsData | None = None,
    calibration: orm.Dict | None = None,
    uncut: ConfigurationsData | None = None,
) -> dict[str, orm.Data]:
    """Return training and exploration settings of the next iteration and the frames where simulations start.

    Starts are as many as there are replicas, without repeats, from the sources whose shares `starts` of the exploration
    tells; see :func:`aiida_mlipal.science.starts.choose_starts`.

    :param pool: of the previous iteration, with what its models said of it and of the dataset of that time.
    :param uncut: frames of that pool that gave way to cut-outs: simulations go on from the whole ones.
    :param structures: that the campaign was given; ends of paths are numbers of these and follow the other starts.
    :param calibration: of the previous iteration. What is above its trust window ends a replica, unless the settings
        have a bound of their own.
    """
    iteration = decision['iteration'] + 1
    settings = exploration.get_dict()
    settings.update(
        iteration=iteration,
        seed=_derive(seed.value, iteration, _EXPLORATION)[0],
        n_stream=from_dict(SelectionSettings, selection.get_dict()).n_stream,
    )
    frames = dataset.configurations
    trainable = np.flatnonzero(frames.is_labelled & frames.has_role('train', 'validation'))
    rng = np.random.default_rng([seed.value, iteration, _STARTS])
    plan = from_dict(ExplorationSettings, settings)
    starts = choose_starts(
        plan.n_replicas,
        plan.starts,
        frames.take(trainable),
        uncertainties=_uncertainties(dataset_evaluation, pool_evaluation),
        previous_pool=Configurations.concatenate([node.configurations for node in (pool, uncut) if node is not None]),
        structures=Configurations.empty() if structures is None else structures.configurations,
        rng=rng,
    )
    if calibration is not None and plan.max_uncertainty is None:
        settings['max_uncertainty'] = _doubt(fitted_calibration(calibration), starts)
    if structures is not None:
        starts, settings['plans'] = with_ends(starts, structures.configurations, list(plan.plans))
    return {
        'training': _training(training.get_dict(), seed.value, iteration),
        'exploration': orm.Dict(settings),
        'starts': ConfigurationsData(starts, level_of_theory=dataset.level_of_theory),
    }


@calcfunction
def settings_with_smaller_batch(settings: orm.Dict) -> orm.Dict:
    """Return exploration settings that let half as many atoms move together."""
    given = settings.get_dict()
    return orm.Dict({**given, 'batch_atoms': max(1, from_dict(ExplorationSettings, given).atoms_per_batch // 2)})


@calcfunction
def plan_final_training(decision: orm.Dict, seed: orm.Int, training: orm.Dict) -> orm.Dict:
    """Return the settings of the training on everything, after the last decision."""
    return _training(training.get_dict(), seed.value, decision['iteration'] + 1)
