"""Which frames a training that goes on from an earlier model looks at, and how often in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.settings import check_integer, check_number
from aiida_mlipal.science.splits import score
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = (
    'COPIES',
    'START',
    'WarmStartSettings',
    'choose_copies',
    'load_copies',
    'repeat',
    'save_copies',
    'warm_settings',
)

#: Beginning of the names of the model files that members start from; the seed of the member follows.
START: Final = 'start_'
#: How often each training frame occurs, in the working directory of a training.
COPIES: Final = 'copies.npz'
#: Learning rate at the end of a training that goes on, as a share of that at its beginning.
_LAST_RATE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class WarmStartSettings:
    """When the models of a campaign go on from those of the iteration before, and how."""

    #: Every so many iterations, and at the end of the campaign, models are trained from scratch on everything; those
    #: between go on. 1 trains always from scratch.
    every: int = 1
    epochs: float = 0.2  #: epochs of a training that goes on, as a share of ``max_num_epochs``
    #: its learning rate at the beginning, as a share of that of the training; it falls to a tenth by the end
    lr: float = 1.0
    replay: float = 0.3  #: share of the frames of earlier iterations that occur once in each epoch, drawn at random
    hard: float = 0.1  #: share of them that count as hard: those with the largest force errors of the model
    weight: int = 2  #: how often new and hard frames occur in each epoch

    def __post_init__(self) -> None:
        for name in ('every', 'weight'):
            check_integer(name, getattr(self, name))
        for name in ('epochs', 'lr', 'replay', 'hard'):
            check_number(name, getattr(self, name), within=(0.0, 1.0))
        for name in ('epochs', 'lr'):
            if getattr(self, name) == 0:
                raise ValueError(f'`{name}` must be above 0.')

    def applies(self, iteration: int) -> bool:
        """Return whether the models of an iteration (from 0) go on from those before."""
        return iteration % self.every != 0


def warm_settings(training: Mapping[str, Any], settings: WarmStartSettings, seeds: list[int]) -> dict[str, Any]:
    """Return the settings of a training that goes on, from those of one from scratch.

    :param seeds: of the members that go on.
    """
    options = TrainingSettings(**training)
    n_epochs = max(2, round(settings.epochs * options.max_num_epochs))
    return {
        **training,
        'seeds': seeds,
        'max_num_epochs': n_epochs,
        'lr': settings.lr * options.lr,
        'scheduler': 'ExponentialLR',
        'lr_scheduler_gamma': _LAST_RATE ** (1 / n_epochs),
    }


def choose_copies(
    frame_id: NDArray[np.str_],
    error: NDArray[np.float64],
    new: NDArray[np.bool_],
    settings: WarmStartSettings,
    seed: int,
) -> NDArray[np.int64]:
    """Return how often each frame occurs in an epoch of a training that goes on, shape ``(F,)``; 0 leaves it out.

    :param error: of the model that goes on, in any unit, shape ``(F,)``; frames without a finite one are hard.
    :param new: which frames that model has not learned from, shape ``(F,)``.
    :param seed: draws the frames that are replayed, by their identities.
    """
    copies = np.where(new, settings.weight, 0)
    old = np.flatnonzero(~new)
    drawn = old[np.lexsort((frame_id[old], score(frame_id[old], seed)))]
    copies[drawn[: round(settings.replay * len(old))]] = 1
    hardest = old[np.lexsort((frame_id[old], -np.nan_to_num(error[old], nan=np.inf)))]
    copies[hardest[: round(settings.hard * len(old))]] = settings.weight
    return copies


def save_copies(frame_id: NDArray[np.str_], copies: NDArray[np.int64], path: Path) -> None:
    """Write how often each frame occurs."""
    np.savez(path, frame_id=frame_id, copies=copies)


def load_copies(path: Path) -> dict[str, int]:
    """Return how often each frame occurs, by its identity."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(zip(arrays['frame_id'].tolist(), arrays['copies'].tolist(), strict=True))


def repeat(frames: Configurations, copies: Mapping[str, int]) -> Configurations:
    """Return ``frames``, each as often as ``copies`` says, once if it says nothing.

    A frame that occurs twice pulls twice as hard, whatever the loss: MACE's own weight of a frame, ``config_weight``,
    means nothing to its losses ``universal`` and ``huber``.

    :raises ValueError: if nothing is left.
    """
    rows = np.repeat(np.arange(len(frames)), [copies.get(frame, 1) for frame in frames.frame_id.tolist()])
    if not len(rows):
        raise ValueError(f'`copies` leaves out all {len(frames)} training frames: let some occur once or more.')
    return frames.take(rows)
