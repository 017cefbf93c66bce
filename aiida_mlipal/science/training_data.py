"""What a training is made of: which frames train, which validate, and the names of the files that carry them."""

from __future__ import annotations

from typing import Final

import numpy as np

from aiida_mlipal.science.atomic_energies import from_isolated_atoms, least_squares
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('DATASET', 'STOP', 'reference_energies', 'split')

#: The dataset in the working directory of a training.
DATASET: Final = 'dataset.npz'
#: A file of this name ends a training at its best checkpoints: all members, or the one in whose folder it lies.
STOP: Final = 'STOP'

_MIN_VALID: Final = 4


def split(configurations: Configurations, settings: TrainingSettings) -> tuple[Configurations, Configurations]:
    """Return training and validation frames: of the labelled frames with role ``train``, at least one for each.

    The draw depends on the identities of the frames and on ``split_seed``, not on their order.

    :raises ValueError: if there are fewer than two such frames.
    """
    frames = configurations.take(configurations.has_role('train') & configurations.is_labelled)
    if len(frames) < 2:
        raise ValueError(
            f'a training needs at least 2 labelled frames with role `train` (one of them validates), got {len(frames)} '
            f'among {len(configurations)} frames.'
        )
    order = np.argsort(frames.frame_id)[np.random.default_rng(settings.split_seed).permutation(len(frames))]
    n_valid = min(max(_MIN_VALID, round(settings.valid_fraction * len(frames))), len(frames) // 2)
    return frames.take(np.sort(order[n_valid:])), frames.take(np.sort(order[:n_valid]))


def reference_energies(configurations: Configurations, settings: TrainingSettings) -> dict[int, float]:
    """Return the energy (eV) of an atom per atomic number, by the way that ``settings.e0s`` names.

    :raises ValueError: if it does not give one for each element of the training frames.
    """
    if settings.e0s == 'least_squares':
        return least_squares(configurations)
    return from_isolated_atoms(configurations)
