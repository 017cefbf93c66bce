"""What a training is made of: which frames train, which validate, and the names of the files that carry them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from ase.data import chemical_symbols

from aiida_mlipal.science.atomic_energies import from_isolated_atoms, from_mapping, least_squares
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.heads import MAIN_HEAD, check_head_names
from aiida_mlipal.science.splits import draw_validation
from aiida_mlipal.science.training_checks import check_frames
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = (
    'CHECKPOINTS',
    'DATASET',
    'OTHER',
    'STOP',
    'HeadData',
    'bootstrap',
    'head_data',
    'other_head',
    'reference_energies',
    'split',
)

#: The dataset in the working directory of a training.
DATASET: Final = 'dataset.npz'
#: Beginning of the names of the files with datasets of other levels of theory; the name of the head follows.
OTHER: Final = 'other_'
#: The folder in the working directory of a training from which another job can continue it.
CHECKPOINTS: Final = 'checkpoints'
#: A file of this name ends a training at its best checkpoints: all members, or the one in whose folder it lies.
STOP: Final = 'STOP'


def split(configurations: Configurations, settings: TrainingSettings) -> tuple[Configurations, Configurations]:
    """Return training and validation frames, at least one of each.

    Where the dataset records which labelled frames validate (role ``validation``), these do. Otherwise frames with role
    ``train`` are drawn by their identities and ``split_seed``, see :mod:`aiida_mlipal.science.splits`.

    :raises ValueError: if there are fewer than two such frames, or none for one of both, or one cannot be trained on,
        see :func:`~aiida_mlipal.science.training_checks.check_frames`.
    """
    recorded = configurations.has_role('validation')
    frames = configurations.take((configurations.has_role('train') | recorded) & configurations.is_labelled)
    if len(frames) < 2:
        raise ValueError(
            f'a training needs at least 2 labelled frames with role `train` (one of them validates), got {len(frames)} '
            f'among {len(configurations)} frames: label more; rejected frames, those of the random stream (roles '
            '`calibration` and `test`) and those that repeat one of it (`withheld`) do not count.'
        )
    check_frames(frames, r_max=settings.r_max)
    if recorded.any():
        valid = frames.has_role('validation')
    else:
        valid = draw_validation(frames.frame_id, fraction=settings.valid_fraction, seed=settings.split_seed)
    if valid.all() or not valid.any():
        found, other = ('validation', 'train') if valid.all() else ('train', 'validation')
        failed = int(configurations.has_role(other).sum())
        raise ValueError(
            f'all {len(frames)} labelled frames of the dataset have the role `{found}`, and '
            + (f'the {failed} with the role `{other}` have no label' if failed else f'none has the role `{other}`')
            + f': give some of the labelled ones the role `{other}`, or all frames the role `train`, of which '
            '`valid_fraction` are then drawn for validation.'
        )
    fewest = int(min(valid.sum(), (~valid).sum()))
    if fewest < settings.gpus_per_member:
        raise ValueError(
            f'`gpus_per_member` is {settings.gpus_per_member}, but of {(~valid).sum()} training and {valid.sum()} '
            f'validation frames each GPU needs one of both: set it to {fewest} or less, or label more.'
        )
    return frames.take(~valid), frames.take(valid)


def bootstrap(frames: Configurations, seed: int) -> Configurations:
    """Return as many frames as there are, drawn with replacement, in their order (Efron, Ann. Stat. 7, 1 (1979)).

    An element that the draw has missed comes in with one more frame, since all members of a committee must know the
    same elements. The draw depends on the identities of the frames and on ``seed``, not on their order.
    """
    rng = np.random.default_rng([seed, len(frames)])
    order = np.argsort(frames.frame_id)
    drawn = order[rng.integers(len(frames), size=len(frames))]
    owner = np.repeat(np.arange(len(frames)), frames.n_atoms)  # of each atom
    for number in np.unique(frames.numbers):
        holders = order[np.isin(order, owner[frames.numbers == number])]
        if not np.isin(holders, drawn).any():
            drawn = np.append(drawn, rng.choice(holders))
    return frames.take(np.sort(drawn))


@dataclass(frozen=True, kw_only=True)
class HeadData:
    """What one head learns from: its frames, and its energies (eV) of the atoms by atomic number."""

    train: Configurations
    valid: Configurations
    e0s: dict[int, float]


def other_head(
    name: str, configurations: Configurations, settings: TrainingSettings, elements: Collection[int]
) -> HeadData:
    """Return what a head besides the main one learns from.

    :param elements: atomic numbers that the main dataset has.
    :raises ValueError: for a name that cannot be one, fewer than two frames, missing energies of the atoms, and
        elements that the main dataset does not have.
    """
    check_head_names([name])
    try:
        train, valid = split(configurations, settings)
        e0s = reference_energies(configurations, settings)
    except ValueError as exception:
        raise ValueError(f'`other_datasets.{name}`: {exception}') from exception
    foreign = [chemical_symbols[number] for number in e0s if number not in elements]
    if foreign:
        raise ValueError(
            f'`other_datasets.{name}` holds {", ".join(foreign)}, of which the main dataset has no frames, so that the '
            'main head could say nothing of them: take those frames out, or label some at the main level.'
        )
    return HeadData(train=train, valid=valid, e0s=e0s)


def head_data(
    main: Configurations, others: Mapping[str, Configurations], settings: TrainingSettings
) -> dict[str, HeadData]:
    """Return what each head learns from, by its name; the main head comes last.

    Frames that validate the main head train no other head either: the layers below would have seen them.

    :param others: datasets of other levels of theory by the names of their heads.
    :raises ValueError: see :func:`split`, :func:`reference_energies` and :func:`other_head`; and if no frame is left.
    """
    train, valid = split(main, settings)
    e0s = reference_energies(main, settings)
    heads = {}
    for name in sorted(others):
        head = other_head(name, others[name], settings, e0s)
        unseen = head.train.take(~np.isin(head.train.frame_id, valid.frame_id))
        if not len(unseen):
            raise ValueError(f'`other_datasets.{name}`: all its training frames validate the main head; add others.')
        heads[name] = replace(head, train=unseen)
    return {**heads, MAIN_HEAD: HeadData(train=train, valid=valid, e0s=e0s)}


def reference_energies(configurations: Configurations, settings: TrainingSettings) -> dict[int, float]:
    """Return the energy (eV) of an atom per atomic number, by the way that ``settings.e0s`` names.

    :raises ValueError: if it does not give one for each element of the training frames.
    """
    if not isinstance(settings.e0s, str):
        return from_mapping(configurations, settings.e0s)
    if settings.e0s == 'least_squares':
        return least_squares(configurations)
    return from_isolated_atoms(configurations)
