"""The campaign file: one YAML document that says everything about a campaign, checked whole before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from aiida_mlipal.science.settings import unknown_name

from . import checks
from .campaign_schema import Campaign, Label, read_structure

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import StructureData

__all__ = ('CampaignFileError', 'build', 'json_schema', 'load_campaign')

Location = tuple[int | str, ...]


class CampaignFileError(ValueError):
    """A campaign file that cannot be run; ``problems`` holds one line for each thing to mend."""

    def __init__(self, path: str | Path, problems: list[str]) -> None:
        self.problems = problems
        count = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
        super().__init__('\n'.join([f'{path}: {count}, nothing was submitted:', *(f'  - {line}' for line in problems)]))


def load_campaign(path: str | Path) -> Campaign:
    """Return the campaign that the YAML file ``path`` describes. Nothing is looked up in the database.

    :raises CampaignFileError: with every problem found: where it is, what was expected, and the nearest valid key.
    """
    path = Path(path)
    try:
        document = yaml.compose(path.read_text(encoding='utf-8'), Loader=yaml.SafeLoader)
        data = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as exception:
        raise CampaignFileError(path, [f'cannot be read: {exception.strerror}.']) from exception
    except yaml.YAMLError as exception:
        raise CampaignFileError(path, [f'is not YAML: {" ".join(str(exception).split())}']) from exception
    if not isinstance(data, dict):
        raise CampaignFileError(path, ['must hold keys; see `aiida-mlipal launch --schema`.'])
    lines: dict[Location, int] = {}
    problems = []
    for location, line in _keys(document):
        if location in lines and lines.get(location[:-1], 0) <= lines[location]:
            problems.append(f'line {line}, `{_dotted(location)}`: given twice; YAML would silently keep the last one.')
        lines[location] = line
    try:
        campaign = Campaign.model_validate(data, context={'folder': str(path.parent)})
    except ValidationError as exception:
        found = [_problem(dict(error), lines) for error in exception.errors()]
        raise CampaignFileError(path, problems + [text for _, text in sorted(found)]) from exception
    problems += checks.check_sizes(
        n_structures=len(campaign.structures),
        recipe=campaign.seeds,
        has_dataset=campaign.dataset is not None,
        n_members=campaign.train.n_members,
        train=campaign.train.settings,
        explore=campaign.explore.settings,
        selection=campaign.selection,
        convergence=campaign.convergence,
    )
    if problems:
        raise CampaignFileError(path, problems)
    return campaign


def _dotted(location: Location) -> str:
    """Return ``train.settings`` or ``seeds[2]``."""
    text = ''
    for part in location:
        text += f'[{part + 1}]' if isinstance(part, int) else f'.{part}' if text else str(part)
    return text


def _keys(node: yaml.Node | None, location: Location = ()) -> Iterator[tuple[Location, int]]:
    """Yield the location and line (from 1) of every key and list item below ``node``."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*location, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _keys(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*location, index)
            yield here, value.start_mark.line + 1
            yield from _keys(value, here)


def _problem(error: dict[str, Any], lines: dict[Location, int]) -> tuple[int, str]:
    """Return the line and the text of one of pydantic's errors, in the words of this package."""
    location: Location = tuple(error['loc'])
    message = str(error['msg']).removeprefix('Value error, ')
    if error['type'] == 'extra_forbidden':
        message = unknown_name('key', location[-1], _section_fields(location[:-1]))
    elif error['type'] == 'missing':
        message = f'is missing: {_description(location)}'
    elif error['type'] != 'value_error':
        # Unions repeat their branches in the location (`structures.0.int`); the file knows only the first part.
        message = f'{message[:1].lower()}{message[1:]}, got {error["input"]!r}.'
    location = next((location[:n] for n in range(len(location), 0, -1) if location[:n] in lines), location[:0]) + (
        (location[-1],) if error['type'] == 'missing' else ()
    )
    # A message of a settings class names the key that it is about: point there.
    named = [key for key in lines if key[:-1] == location and f'`{key[-1]}`' in message]
    location = named[0] if named else location
    line = lines.get(location) or lines.get(location[:-1]) or 1
    return line, f'line {line}, `{_dotted(location)}`: {message}'


def _section_fields(location: Location) -> list[str]:
    """Return the valid keys of the section at ``location``."""
    return list(_section(location).model_fields)


def _section(location: Location) -> type[BaseModel]:
    """Return the model of the section at ``location``."""
    model: type[BaseModel] = Campaign
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        # A section that may be left out is a union with None.
        (model,) = [kind for kind in (annotation, *get_args(annotation)) if _is_section(kind)]
    return model


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _description(location: Location) -> str:
    return str(_section(location[:-1]).model_fields[str(location[-1])].description)


def json_schema() -> dict[str, Any]:
    """Return the schema of a campaign file, with the settings of every stage spelled out, as JSON schema."""
    from pydantic import TypeAdapter

    schema = Campaign.model_json_schema()
    sections = {
        'train': schema['$defs']['Train']['properties']['settings'],
        'warm_start': schema['$defs']['Train']['properties']['warm_start'],
        'explore': schema['$defs']['Explore']['properties']['settings'],
        **{name: schema['properties'][name] for name in ('selection', 'convergence', 'budget')},
    }
    for section, entry in sections.items():
        cls, reserved = checks.settings_class(section)
        fields = TypeAdapter(cls).json_schema()['properties']
        entry['properties'] = {name: field for name, field in fields.items() if name not in reserved}
        entry['additionalProperties'] = False
    return schema


def build(campaign: Campaign) -> ProcessBuilder:
    """Return the builder of the campaign; the database must know its codes, nodes and pseudopotentials.

    :raises ValueError: with everything that is missing, and the commands that bring it.
    """
    from aiida.plugins import WorkflowFactory

    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.data.model import MlipModelData

    from .engines import load_engine

    problems: list[str] = []

    def attempt(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ValueError as exception:
            problems.append(str(exception))
            return None

    structures = [attempt(_structure, entry) for entry in campaign.structures]
    label, train = campaign.label, campaign.train
    names = {
        'label': (label.code, load_engine(label.engine).plugin),
        'train': (train.code, 'mlipal.mace.train'),
        'explore': (campaign.explore.code or train.code, 'mlipal.mace.explore'),
        'evaluate': (campaign.evaluate.code or train.code, 'mlipal.mace.evaluate'),
    }
    labelling = {'label': label}
    if campaign.prescreen is not None:
        labelling['prescreen'] = campaign.prescreen
        names['prescreen'] = (campaign.prescreen.code, load_engine(campaign.prescreen.engine).plugin)
    overrides = _overrides(campaign)
    found = {wanted: attempt(checks.find_code, *wanted) for wanted in dict.fromkeys(names.values())}
    dataset = None
    if campaign.dataset is not None:
        dataset = attempt(checks.find_node, campaign.dataset, ConfigurationsData, '`dataset`')
    for section, entry in labelling.items():
        if entry.engine == 'quantumespresso':
            attempt(checks.find_pseudo_family, entry.pseudo_family, [node for node in structures if node is not None])
        if entry.model is not None:
            overrides[section]['model'] = attempt(checks.find_node, entry.model, MlipModelData, f'`{section}.model`')
    others = {
        name: attempt(checks.find_node, entry, ConfigurationsData, f'`train.other_datasets.{name}`')
        for name, entry in train.other_datasets.items()
    }
    foundation, replay = (
        None if entry is None else attempt(checks.find_node, entry, kind, f'`train.{name}`')
        for name, entry, kind in (
            ('foundation_model', train.foundation_model, MlipModelData),
            ('replay', train.replay, ConfigurationsData),
        )
    )
    if problems:
        raise ValueError('\n'.join(dict.fromkeys(problems)))
    builder: ProcessBuilder = WorkflowFactory('mlipal.active_learning').get_builder_from_protocol(
        structures,
        {stage: found[wanted] for stage, wanted in names.items()},
        protocol=campaign.protocol,
        engine=label.engine,
        seed=campaign.seed,
        dataset=dataset,
        other_datasets=others,
        foundation_model=foundation,
        replay=replay,
        overrides=overrides,
        options={stage: getattr(campaign, stage).options.as_metadata() for stage in names},
    )
    return builder


def _structure(entry: int | str) -> StructureData:
    from aiida.orm import StructureData

    if isinstance(entry, int) or checks.is_uuid(entry):
        node: StructureData = checks.find_node(entry, StructureData, '`structures`')
        return node
    return StructureData(ase=read_structure(Path(entry)))


def _label_overrides(section: Label) -> dict[str, Any]:
    """Return what a labelling section says over the protocol, with the parameters as its engine takes them."""
    label: dict[str, Any] = section.model_dump(
        exclude_none=True, exclude={'engine', 'code', 'options', 'calculator', 'parameters'}, exclude_unset=True
    )
    label['parameters'] = section.parameters
    if section.calculator is not None:
        label['parameters'] = {'calculator': section.calculator, 'parameters': section.parameters}
    return label


def _overrides(campaign: Campaign) -> dict[str, Any]:
    """Return what the file says over the protocol, by the sections of the protocol."""
    training = dict(campaign.train.settings)
    if campaign.train.n_members is not None:
        training['n_members'] = campaign.train.n_members
    overrides = {
        'label': _label_overrides(campaign.label),
        'training': training,
        'warm_start': campaign.train.warm_start,
        'exploration': campaign.explore.settings,
        'selection': campaign.selection,
        'convergence': campaign.convergence,
        'budget': campaign.budget,
        'validation': campaign.validation.model_dump(exclude_none=True),
    }
    if campaign.prescreen is not None:
        overrides['prescreen'] = {'engine': campaign.prescreen.engine, **_label_overrides(campaign.prescreen)}
    if campaign.seeds is not None:
        recipe = list(campaign.seeds)
        if not any(item['generator'] == 'isolated_atoms' for item in recipe):
            recipe.append({'generator': 'isolated_atoms'})  # training needs their energies
        overrides['seeds'] = {'recipe': recipe}
    if campaign.initial_moments is not None:
        overrides.setdefault('seeds', {})['initial_moments'] = campaign.initial_moments
    return overrides
