"""Training that begins with the weights of a model of elsewhere: what that model decides, and what it cannot learn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_data import HeadData, split
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = (
    'ARCHITECTURE',
    'FOUNDATION',
    'FOUNDATION_HEAD',
    'REPLAY',
    'REPLAY_HEAD',
    'InspectSettings',
    'contradictions',
    'decided',
    'fine_tuning',
    'replay_head',
    'unknown_elements',
)

#: The model to start from, and the frames that it learned from, in the working directory of a training.
FOUNDATION: Final = 'foundation.model'
REPLAY: Final = 'replay.npz'
#: Says which head of the model to start from: ``{"head": ...}``, null for the only one.
FOUNDATION_HEAD: Final = 'foundation.json'
#: MACE's name of the head that keeps to what the foundation model has learned.
REPLAY_HEAD: Final = 'pt_head'

#: Settings that a foundation model decides: its weights fit no others, and MACE takes those of the model.
ARCHITECTURE: Final = (
    'correlation',
    'distance_transform',
    'max_L',
    'max_ell',
    'num_channels',
    'num_cutoff_basis',
    'num_interactions',
    'num_radial_basis',
    'pair_repulsion',
    'r_max',
    'radial_MLP',
)
#: Learning rate over that of the protocol: with the usual 0.01 the first epochs would undo the training of the model.
_LR: Final = 0.001


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """Settings of ``mlipal.mace.inspect``, which reads what a model file of elsewhere holds."""

    sha256: str  #: of the file, in hexadecimal digits: what was published is what is read
    head: str | None = None  #: the head that the level of theory belongs to, if the file has several

    def __post_init__(self) -> None:
        if len(str(self.sha256)) != 64 or set(str(self.sha256)) - set('0123456789abcdef'):
            raise ValueError(f'`sha256` must be 64 hexadecimal digits in lower case, got {self.sha256!r}.')


def fine_tuning(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``training`` section of a protocol as it is for a training that starts from a foundation model."""
    return {**{key: value for key, value in training.items() if key not in ARCHITECTURE}, 'lr': _LR}


def contradictions(given: Mapping[str, Any], architecture: Mapping[str, Any]) -> list[str]:
    """Return one sentence per setting in ``given`` that says something else than the foundation model.

    :param given: settings as they were given, without defaults.
    :param architecture: what is known of the model, by the names of :data:`ARCHITECTURE`.
    """
    return [
        f'`{name}` is {given[name]!r}, but the foundation model has {architecture[name]!r}: remove `{name}` from the '
        'settings.'
        for name in sorted(set(given) & set(architecture))
        if not _equal(given[name], architecture[name])
    ]


def _equal(a: Any, b: Any) -> bool:
    """Compare two values of a setting; models in single precision know their cutoff to six digits."""
    if isinstance(a, float) or isinstance(b, float):
        return bool(np.isclose(a, b, rtol=1e-6, atol=0.0))
    return bool(list(a) == list(b)) if isinstance(a, (list, tuple)) else bool(a == b)


def decided(settings: TrainingSettings, architecture: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings with which a training from a foundation model really runs."""
    names = {field.name for field in fields(TrainingSettings)} & set(ARCHITECTURE)
    return replace(settings, **{name: value for name, value in architecture.items() if name in names})


def unknown_elements(elements: Collection[int], known: Collection[str]) -> list[str]:
    """Return the chemical symbols of those atomic numbers that a foundation model does not know."""
    return [chemical_symbols[number] for number in sorted(set(elements)) if chemical_symbols[number] not in known]


def replay_head(
    replay: Configurations, settings: TrainingSettings, main: HeadData, e0s: Mapping[int, float]
) -> tuple[HeadData, int]:
    """Return what keeps the model to what it has learned, and how many of the frames cannot take part in that.

    A frame with an element that the main dataset lacks cannot: the main head would have no energy for its atoms. Frames
    that validate the main head do not train either: the layers below would have seen them.

    :param main: what the main head learns from.
    :param e0s: energies of the atoms in the foundation model by atomic number, eV; known on the compute node alone.
    :raises ValueError: if fewer than two frames can take part; see also
        :func:`~aiida_mlipal.science.training_data.split`.
    """
    foreign = np.zeros(len(replay), dtype=bool)
    foreign[replay.atom_frame[~np.isin(replay.numbers, list(main.e0s))]] = True
    symbols = '-'.join(chemical_symbols[number] for number in sorted(main.e0s))
    try:
        train, valid = split(replay.take(~foreign), settings)
    except ValueError as exception:
        raise ValueError(
            f'`replay`: {int(foreign.sum())} of {len(replay)} frames hold other elements than {symbols} and cannot '
            f'take part; {exception}'
        ) from exception
    unseen = train.take(~np.isin(train.frame_id, main.valid.frame_id))
    if not len(unseen):
        raise ValueError('`replay`: all its training frames validate the main head; add others.')
    own = {number: energy for number, energy in e0s.items() if number in main.e0s}
    return HeadData(train=unseen, valid=valid, e0s=own), int(foreign.sum())
