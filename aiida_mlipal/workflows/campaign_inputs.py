"""What the inputs of a campaign must satisfy together, however they were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.level_of_theory import difference
from aiida_mlipal.workflows import checks
from aiida_mlipal.workflows.engines import load_engine

__all__ = ('validate_campaign',)


#: Port -> section of the campaign file.
_SECTIONS = {'training': 'train', 'exploration': 'explore'}


def validate_campaign(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Return all that is wrong with the inputs of a campaign, or ``None``."""
    if not {'training', 'exploration', 'selection', 'convergence', 'budget', 'seeds', 'label'} <= set(inputs):
        return None  # the ports themselves say what is missing
    problems = []
    values = {
        name: inputs[name].get_dict() for name in ('training', 'exploration', 'selection', 'convergence', 'budget')
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
    return ' '.join(problems + _unfit_structures(inputs) + _foreign_labels(inputs)) or None


def _unfit_structures(inputs: Mapping[str, Any]) -> list[str]:
    """Return why the label engine cannot take some of the structures."""
    structures, label = inputs['seeds']['structures'], inputs['label']
    frames = Configurations.from_atoms([structures[name].get_ase() for name in sorted(structures)])
    try:
        problems = load_engine(label['engine'].value).check_frames(frames, label['engine_inputs'])
    except (KeyError, ValueError) as exception:
        return [f'`label`: {exception}']
    return [f'`structures`: {problem}' for problem in problems]


def _foreign_labels(inputs: Mapping[str, Any]) -> list[str]:
    """Return how the level of theory of the initial dataset differs from the one that new labels will have."""
    if 'dataset' not in inputs:
        return []
    dataset, label = inputs['dataset'], inputs['label']
    if dataset.level_of_theory is None:
        return [f'`dataset`: node {dataset.pk} has no level of theory, so its labels cannot be mixed with new ones.']
    try:
        ours = load_engine(label['engine'].value).level_of_theory(label['engine_inputs'])
    except (KeyError, ValueError) as exception:
        return [f'`label`: {exception}']
    lines = difference(dataset.level_of_theory, ours)
    if not lines:
        return []
    return [
        f'`dataset`: node {dataset.pk} has another level of theory than new labels would have: {"; ".join(lines)}. '
        'Use the settings of the dataset, or label its frames anew.'
    ]
