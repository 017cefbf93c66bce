"""What the inputs of a campaign must satisfy together, however they were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase import Atoms

from aiida_mlipal.calculations.foundation import foundation_problems, settings_decided
from aiida_mlipal.calculations.mace_train import other_dataset_problems
from aiida_mlipal.data.base import plain
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_checks import unfit_starts
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.label_checks import LabelChecks
from aiida_mlipal.science.level_of_theory import difference
from aiida_mlipal.science.seeds import set_initial_moments
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_checks import check_cells, check_frames
from aiida_mlipal.science.training_data import reference_energies
from aiida_mlipal.science.training_settings import TrainingSettings
from aiida_mlipal.science.uncertainty import parts_of
from aiida_mlipal.workflows import checks
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.engines.base import unfit_frames

__all__ = ('foreign_labels', 'validate_campaign')


#: Port -> section of the campaign file.
_SECTIONS = {'training': 'train', 'exploration': 'explore'}


def validate_campaign(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Return all that is wrong with the inputs of a campaign, or ``None``."""
    if not {'training', 'exploration', 'selection', 'convergence', 'budget', 'seeds', 'label'} <= set(inputs):
        return None  # the ports themselves say what is missing
    problems = []
    values = {
        name: inputs[name].get_dict()
        for name in ('training', 'exploration', 'selection', 'convergence', 'budget', 'warm_start')
        if name in inputs
    }
    n_members = values['training'].pop('n_members', None)
    for name, mapping in values.items():
        try:
            checks.check_settings(_SECTIONS.get(name, name), mapping)
        except ValueError as exception:
            problems.append(f'`{name}`: {exception}')
    recipe = inputs['seeds']['settings'].get_dict().get('recipe', [])
    try:
        checks.check_recipe(recipe)
    except ValueError as exception:
        problems.append(f'`seeds.settings`: {exception}')
    if not problems:
        problems += checks.check_sizes(
            n_structures=len(inputs['seeds']['structures']),
            recipe=recipe,
            has_dataset='dataset' in inputs,
            n_members=n_members,
            train=values['training'],
            explore=values['exploration'],
            selection=values['selection'],
            convergence=values['convergence'],
        )
    if not problems:
        problems += _unfit_measure(inputs, values['selection'])
        problems += _unfit_heads(inputs, values['training']) + _unfit_training(inputs, recipe, values['training'])
        problems += _unfit_exploration(inputs, values['exploration'])
    problems += _unfit_structures(inputs) + _unfit_prescreen(inputs) + foreign_labels(inputs)
    return ' '.join(problems) or None


def _unfit_prescreen(inputs: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the prescreen, if there is one."""
    prescreen, label = inputs.get('prescreen', {}), inputs['label']
    if 'engine' not in prescreen:
        return []
    try:
        checks.check_settings('prescreen', prescreen['settings'].get_dict())
        levels = [
            load_engine(given['engine'].value).level_of_theory(given['engine_inputs']) for given in (label, prescreen)
        ]
    except (KeyError, ValueError) as exception:
        return [f'`prescreen`: {exception}']
    if not difference(*levels):
        return [
            '`prescreen` has the level of theory of `label`, so each candidate would be paid for: choose a cheaper '
            'engine or parameters, or leave the prescreen out.'
        ]
    return []


def _unfit_measure(inputs: Mapping[str, Any], selection: Mapping[str, Any]) -> list[str]:
    """Return why the measure of uncertainty says nothing of the structures."""
    structures = inputs['seeds']['structures'].values()
    if 'stress' not in parts_of(selection.get('uncertainty', 'forces_max')) or all(all(s.pbc) for s in structures):
        return []
    return [
        '`selection`: `uncertainty` is the spread of the stress, but some of the structures are not periodic in all '
        'three directions and have none: choose another measure, for example `forces_max`.'
    ]


def _unfit_structures(inputs: Mapping[str, Any]) -> list[str]:
    """Return why a label engine cannot take some of the structures."""
    structures = inputs['seeds']['structures']
    atoms = [structures[name].get_ase() for name in sorted(structures)]
    moments = inputs['seeds']['settings'].get_dict().get('initial_moments')
    if moments:
        try:
            set_initial_moments(atoms, moments)
        except ValueError as exception:
            return [f'`seeds.settings`: {exception}']
    frames = Configurations.from_atoms(atoms)
    problems = []
    for section in ('label', 'prescreen'):
        given = inputs.get(section, {})
        if 'engine' not in given:
            continue
        try:
            limits = from_dict(LabelChecks, given['checks'].get_dict())
            found = unfit_frames(load_engine(given['engine'].value), frames, given['engine_inputs'], limits)
        except (KeyError, ValueError) as exception:
            found = [str(exception)]
        problems += [f'`structures` and `{section}`: {problem}' for problem in found]
    return problems


def _unfit_heads(inputs: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """Return why a training cannot start from its model, or datasets of other levels cannot have heads of their own."""
    own, label = inputs.get('train', {}), inputs['label']
    try:
        ours = plain(load_engine(label['engine'].value).level_of_theory(label['engine_inputs']))
    except (KeyError, ValueError):
        return []  # said by the checks of the label engine
    frames = [Configurations.from_atoms([node.get_ase()]) for node in inputs['seeds']['structures'].values()]
    if 'dataset' in inputs:
        frames.append(inputs['dataset'].configurations)
    elements = Configurations.concatenate(frames).numbers
    settings = settings_decided(_settings(training), own.get('foundation_model'))
    problems = foundation_problems(own, training, settings, level=ours, elements=elements)
    mend = 'give it as the `dataset` of the campaign'
    others = own.get('other_datasets', {})
    return problems + other_dataset_problems(others, settings, level=ours, elements=elements, mend=mend)


def _unfit_exploration(inputs: Mapping[str, Any], exploration: Mapping[str, Any]) -> list[str]:
    """Return why the plans of the exploration cannot move the structures or the frames of the dataset."""
    frames = [Configurations.from_atoms([node.get_ase()]) for node in inputs['seeds']['structures'].values()]
    if 'dataset' in inputs:
        frames.append(inputs['dataset'].configurations)
    starts = Configurations.concatenate(frames)
    settings = from_dict(ExplorationSettings, {**exploration, 'seed': 0})
    problem = unfit_starts(starts.take(starts.n_atoms > 1), settings)
    return [f'`exploration`: {problem}'] if problem else []


def _settings(training: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings of a training, but for its seeds."""
    return from_dict(TrainingSettings, {**training, 'seeds': (0,)})


def _unfit_training(inputs: Mapping[str, Any], recipe: list[dict[str, Any]], training: Mapping[str, Any]) -> list[str]:
    """Return why the first training would fail, after all seeds have been paid for."""
    settings = settings_decided(_settings(training), inputs.get('train', {}).get('foundation_model'))
    parents = Configurations.from_atoms([node.get_ase() for node in inputs['seeds']['structures'].values()])
    frames = [parents]
    problems = []

    def attempt(function: Any, *arguments: Any, **more: Any) -> None:
        try:
            function(*arguments, **more)
        except ValueError as exception:
            problems.append(str(exception))

    attempt(check_cells, parents, r_max=settings.r_max)
    if 'dataset' in inputs:
        known = inputs['dataset'].configurations
        frames.append(known)
        learned = known.take(known.is_labelled & known.has_role('train', 'validation'))
        attempt(check_frames, learned, r_max=settings.r_max)
    if settings.e0s == 'isolated_atoms' and any(item['generator'] == 'isolated_atoms' for item in recipe):
        # The generator makes the atoms of the structures; a dataset must bring those that it has beyond them.
        atoms = [Atoms(symbol) for symbol in parents.elements]
        frames.append(Configurations.from_atoms(atoms, role='isolated_atom', energy=0.0, status='labelled'))
    if settings.e0s != 'least_squares':
        attempt(reference_energies, Configurations.concatenate(frames), settings)
    return [f'`training`: {problem}' for problem in problems]


def foreign_labels(inputs: Mapping[str, Any]) -> list[str]:
    """Return how the level of theory of the given dataset differs from the one that new labels will have."""
    if 'dataset' not in inputs:
        return []
    dataset, label = inputs['dataset'], inputs['label']
    if dataset.level_of_theory is None:
        return [f'`dataset`: node {dataset.pk} has no level of theory, so its labels cannot be mixed with new ones.']
    try:
        ours = plain(load_engine(label['engine'].value).level_of_theory(label['engine_inputs']))
    except (KeyError, ValueError) as exception:
        return [f'`label`: {exception}']
    lines = difference(dataset.level_of_theory, ours)
    if not lines:
        return []
    return [
        '\n'.join(
            [
                f'`dataset`: node {dataset.pk} has another level of theory than new labels would have:',
                *(f'  {line}' for line in lines),
                'Use the settings of the dataset, label its frames anew, or let a head of its own learn it '
                '(`other_datasets` of the training).',
            ]
        )
    ]
