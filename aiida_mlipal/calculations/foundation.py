"""What a training that starts from a foundation model needs: its inputs, its files, and what is refused before."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.foundation import (
    FOUNDATION,
    FOUNDATION_HEAD,
    REPLAY,
    contradictions,
    decided,
    replay_head,
    unknown_elements,
)
from aiida_mlipal.science.level_of_theory import digest
from aiida_mlipal.science.training_data import HeadData
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('FOUNDATION_INPUTS', 'declare_foundation', 'foundation_problems', 'settings_decided', 'write_foundation')

#: Inputs of a training that starts from a foundation model.
FOUNDATION_INPUTS: Final = ('foundation_model', 'replay')


def declare_foundation(spec: Any) -> None:
    """Declare the inputs of :data:`FOUNDATION_INPUTS`."""
    spec.input(
        'foundation_model',
        valid_type=MlipModelData,
        required=False,
        help='A model whose weights the training begins with: an imported one, or one of an earlier training.',
    )
    spec.input(
        'replay',
        valid_type=ConfigurationsData,
        required=False,
        help='Labelled frames of the level of theory of the foundation model, to which a head of its own keeps, so '
        'that the model does not forget what it has learned.',
    )


def settings_decided(settings: TrainingSettings, foundation: MlipModelData | None) -> TrainingSettings:
    """Return the settings with which a training really runs."""
    return settings if foundation is None else decided(settings, foundation.architecture)


def foundation_problems(
    inputs: Mapping[str, Any],
    given: Mapping[str, Any],
    settings: TrainingSettings,
    *,
    level: Mapping[str, Any] | None,
    elements: Collection[int],
    main: HeadData | None = None,
) -> list[str]:
    """Return why a training cannot start from its foundation model.

    :param inputs: those of the training; foundation model and replay are looked at.
    :param given: settings as they were given, without defaults.
    :param settings: the same with defaults.
    :param level: level of theory of the labels of the main dataset, ``None`` if they have none.
    :param elements: atomic numbers of the main dataset.
    :param main: what the main head learns from, where that is known already.
    """
    foundation, replay = inputs.get('foundation_model'), inputs.get('replay')
    if foundation is None:
        return list(_without_model(replay, settings))
    problems = [*_unfit_model(foundation, given, elements)]
    return problems if replay is None else [*problems, *_unfit_replay(replay, foundation, settings, level, main)]


def _without_model(replay: ConfigurationsData | None, settings: TrainingSettings) -> Iterator[str]:
    """Yield what needs a foundation model."""
    wanted = {'lora': settings.lora, 'freeze': settings.freeze != 'nothing', 'replay': replay is not None}
    for name in (name for name, is_given in wanted.items() if is_given):
        yield (
            f'`{name}` means something only for a training that starts from a model: give one as `foundation_model` '
            f'(`verdi data mlipal model import --help` says how to get one), or remove `{name}`.'
        )


def _unfit_model(foundation: MlipModelData, given: Mapping[str, Any], elements: Collection[int]) -> Iterator[str]:
    """Yield why a training cannot start from a model."""
    what = f'`foundation_model`: node {foundation.pk}'
    if foundation.n_members > 1:
        yield (
            f'{what} is a committee of {foundation.n_members}, and a training starts from one model: give one of its '
            'members, an output `models.member_00` of the job that trained it.'
        )
    unknown = unknown_elements(elements, foundation.elements)
    if unknown:
        yield (
            f'{what} knows nothing of {", ".join(unknown)}: take another model, take the frames with these elements '
            'out, or train from scratch, without `foundation_model`.'
        )
    architecture = foundation.architecture or {'r_max': foundation.base.attributes.get('r_max')}
    yield from contradictions(given, architecture)


def _unfit_replay(
    replay: ConfigurationsData,
    foundation: MlipModelData,
    settings: TrainingSettings,
    level: Mapping[str, Any] | None,
    main: HeadData | None,
) -> Iterator[str]:
    """Yield why a dataset cannot keep a model to what it has learned."""
    what = f'`replay`: node {replay.pk}'
    if settings.loss != 'universal':
        yield f'`replay` is learned with the loss `universal` alone, got `{settings.loss}`: remove `loss`.'
    if replay.level_of_theory is None or digest(replay.level_of_theory) != foundation.level_of_theory_hash:
        yield (
            f'{what} does not have the level of theory of the foundation model, {foundation.level_of_theory_hash}, so '
            'its labels would teach the model something new: import the frames with the file of the level of theory '
            'that the model was imported with, `aiida-mlipal import --level-of-theory FILE`.'
        )
    elif level is not None and digest(level) == foundation.level_of_theory_hash:
        yield (
            f'{what} has the level of theory of the main labels and needs no head of its own: join both sets with '
            '`merge_datasets`, and remove `replay`.'
        )
    if main is not None:
        try:
            replay_head(replay.configurations, settings, main, {})
        except ValueError as exception:
            yield str(exception)


def write_foundation(inputs: Mapping[str, Any], folder: Path) -> None:
    """Write the files of a training that starts from a foundation model, if this is one."""
    foundation, replay = (inputs.get(name) for name in FOUNDATION_INPUTS)
    if foundation is not None:
        (name,) = foundation.member_names
        (folder / FOUNDATION).write_bytes(foundation.read(name))
        (folder / FOUNDATION_HEAD).write_text(json.dumps({'head': foundation.main_head}), encoding='utf-8')
    if replay is not None:
        frames = replay.configurations
        frames.take(frames.has_role('train', 'validation')).save(folder / REPLAY)
