"""The plan of an iteration: seeds of every random choice in it, and where the simulations start."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.selection import SelectionSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('plan_final_training', 'plan_iteration', 'start_campaign')

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


@calcfunction
def plan_iteration(
    dataset: ConfigurationsData,
    decision: orm.Dict,
    seed: orm.Int,
    training: orm.Dict,
    exploration: orm.Dict,
    selection: orm.Dict,
) -> dict[str, orm.Data]:
    """Return training and exploration settings of the next iteration and the frames where simulations start.

    Starts are drawn from the labelled training frames without replacement, as many as there are replicas.
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
    n_starts = from_dict(ExplorationSettings, settings).n_replicas
    chosen = rng.permutation(trainable)[:n_starts]
    return {
        'training': _training(training.get_dict(), seed.value, iteration),
        'exploration': orm.Dict(settings),
        'starts': ConfigurationsData(frames.take(chosen), level_of_theory=dataset.level_of_theory),
    }


@calcfunction
def plan_final_training(decision: orm.Dict, seed: orm.Int, training: orm.Dict) -> orm.Dict:
    """Return the settings of the training on everything, after the last decision."""
    return _training(training.get_dict(), seed.value, decision['iteration'] + 1)
