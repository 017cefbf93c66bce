"""Checks before anything is submitted: the same messages for the campaign file and for Python.

Each says what was found, what was expected and what to type next. The first half looks at plain values only, the second
half asks the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from aiida_mlipal.science.settings import from_dict, unknown_name

if TYPE_CHECKING:
    from aiida.orm import AbstractCode, StructureData
    from aiida_pseudo.groups.family import PseudoPotentialFamily

__all__ = (
    'check_recipe',
    'check_settings',
    'check_sizes',
    'find_code',
    'find_node',
    'find_pseudo_family',
    'is_uuid',
    'settings_class',
)

#: section -> module of science, class, and the fields that the campaign itself fills in.
_SETTINGS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    'train': ('training_settings', 'TrainingSettings', {'seeds': (0,), 'split_seed': 0}),
    'explore': ('exploration_settings', 'ExplorationSettings', {'seed': 0, 'iteration': 0, 'n_stream': 1}),
    'selection': ('selection', 'SelectionSettings', {}),
    'convergence': ('convergence', 'ConvergenceSettings', {}),
    'budget': ('convergence', 'BudgetSettings', {}),
    'checks': ('label_checks', 'LabelChecks', {}),
    'prescreen': ('prescreen', 'PrescreenSettings', {}),
    'warm_start': ('warm_start', 'WarmStartSettings', {}),
}
#: What each code is for: the plugin to register it with, and what it is.
_CODES: Final = {
    'quantumespresso.pw': ('/path/to/pw.x', 'pw.x of Quantum ESPRESSO'),
    'cp2k': ('/path/to/cp2k.psmp', 'CP2K'),
    'mlipal.mace.train': ('/path/to/python', 'a Python that has mace-torch'),
    'mlipal.ase.label': ('/path/to/python', 'a Python that has ase'),
}


def settings_class(section: str) -> tuple[type, dict[str, Any]]:
    """Return the settings class of a section and values of the fields that the campaign fills in itself."""
    module, name, reserved = _SETTINGS[section]
    found: type = getattr(import_module(f'aiida_mlipal.science.{module}'), name)
    return found, {key: value for key, value in reserved.items() if key in {field.name for field in fields(found)}}


def check_settings(section: str, mapping: Mapping[str, Any]) -> None:
    """Hold ``mapping`` against the settings class of ``section``. Keys that are missing come from the protocol.

    :raises ValueError: with every unknown key and its nearest valid one, and with what the class refuses.
    """
    cls, reserved = settings_class(section)
    valid = [field.name for field in fields(cls) if field.name not in reserved]
    problems = [
        f'`{key}` follows from the seed and the state of the campaign; remove it.'
        if key in reserved
        else unknown_name('key', key, valid)
        for key in mapping
        if key not in valid
    ]
    if problems:
        raise ValueError(' '.join(problems))
    from_dict(cls, {**reserved, **mapping})


def check_recipe(recipe: Sequence[Mapping[str, Any]]) -> None:
    """Hold the recipe of the seeds against the registry of generators.

    :raises ValueError: for an unknown generator or parameter with the nearest valid one, and for zero frames.
    """
    from aiida_mlipal.science.seeds import validate_recipe

    problems = []
    for number, item in enumerate(recipe, start=1):
        try:
            validate_recipe([item])
        except ValueError as exception:
            problems.append(str(exception).replace('seed recipe, item 1', f'item {number}'))
    if problems:
        raise ValueError(' '.join(problems))


def check_sizes(
    *,
    n_structures: int,
    recipe: Sequence[Mapping[str, Any]] | None,
    has_dataset: bool,
    train: Mapping[str, Any],
    explore: Mapping[str, Any],
    selection: Mapping[str, Any],
    convergence: Mapping[str, Any] | None = None,
    n_members: int | None = None,
) -> list[str]:
    """Return what does not fit together in the sizes of a campaign. What is not given is not checked."""
    from aiida_mlipal.science.uncertainty import NEED_TRAINING_FRAMES, parts_of

    problems = []
    if recipe is not None and not has_dataset:
        n_seeds = n_structures * sum(
            item.get('n_frames', 1) for item in recipe if item['generator'] != 'isolated_atoms'
        )
        batch_size = train.get('batch_size')
        if n_seeds == 0:
            problems.append(
                '`seeds`: zero seeds and no `dataset`, so there is nothing to train on; '
                'add for example {generator: rattle, n_frames: 8}.'
            )
        elif batch_size is not None and batch_size > n_seeds:
            problems.append(
                f'`batch_size` of the training is {batch_size}, but the set has only {n_seeds} seeds: '
                f'lower it to at most {n_seeds}, or add seeds.'
            )
    n_labels, max_candidates = selection.get('n_labels'), explore.get('max_candidates')
    if n_labels is not None and max_candidates is not None and n_labels > max_candidates:
        problems.append(
            f'`n_labels` of the selection is {n_labels}, more than the {max_candidates} candidates that an exploration '
            'keeps: raise `max_candidates` of the exploration or lower `n_labels`.'
        )
    for plan in explore.get('plans', ()):
        ends = plan.get('ends', ((0, 1),)) if plan.get('kind') == 'neb' else ()
        last = max((number for pair in ends for number in pair), default=-1)
        if last >= n_structures:
            problems.append(
                f'`ends` of a plan `neb` names structure {last}, counted from 0, but there are {n_structures}: add the '
                'end points to the structures.'
            )
    uncertainty = train.get('uncertainty', 'ensemble')
    if n_members is not None and n_members > 1 and uncertainty != 'ensemble':
        problems.append(
            f'`uncertainty` of the training is `{uncertainty}`, which trains one model, but `n_members` is {n_members}:'
            ' set `n_members: 1`, or `uncertainty: ensemble`.'
        )
    parts = set(parts_of(selection.get('uncertainty', 'forces_max')))
    if 'stress' in parts and n_members == 1:
        problems.append(
            '`uncertainty` of the selection is the spread of the stress, which one model alone does not have: set '
            '`n_members` of the training to 2 or more, or choose another measure, for example `forces_max`.'
        )
    if n_members == 1 and uncertainty not in ('heads', 'llpr') and not parts <= NEED_TRAINING_FRAMES:
        problems += _single_model_problems(selection, convergence)
    return problems


def _single_model_problems(selection: Mapping[str, Any], convergence: Mapping[str, Any] | None) -> list[str]:
    """Return what needs the spread of a committee."""
    from aiida_mlipal.science.convergence import ConvergenceSettings
    from aiida_mlipal.science.selection_settings import SelectionSettings

    mend = (
        'set `n_members` of the training to 4 or more (a spread can be calibrated from 2, corrected from 4) or '
        '`uncertainty: llpr` or `heads`'
    )
    problems = []
    method = from_dict(SelectionSettings, selection).committee_method
    if method:
        problems.append(
            f'`n_members` of the training is 1, but the selection method `{method}` ranks by the '
            f'spread of a committee: {mend}, or choose method `max_det`.'
        )
    if convergence is not None and from_dict(ConvergenceSettings, convergence).uncertain_share < 1:
        problems.append(
            '`n_members` of the training is 1, but the share of uncertain frames is a target, and only a committee is '
            f'uncertain: {mend}, or set `uncertain_share: 1` in the convergence section.'
        )
    return problems


def is_uuid(text: str) -> bool:
    """Return whether ``text`` is a UUID, whole."""
    return re.fullmatch(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', text.lower()) is not None


# -- the database ----------------------------------------------------------------------------------------------------


def find_code(name: str, plugin: str) -> AbstractCode:
    """Return the code ``label@computer``.

    :param plugin: the CalcJob that it is for; with it the message says how to register the code.
    :raises ValueError: if there is none, with the nearest one and the command that registers it.
    """
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    try:
        return load_code(name)
    except MultipleObjectsError as exception:
        raise ValueError(f'several codes are called `{name}`: write label@computer, or the UUID.') from exception
    except (NotExistent, ValueError) as exception:
        label, _, computer = name.partition('@')
        executable, meaning = _CODES.get(plugin, ('/path/to/program', f'the program of {plugin}'))
        raise ValueError(
            f'there is no code `{name}` ({meaning}).{_nearest_code(name)} Register it with '
            f'`verdi code create core.code.installed --label {label} --computer {computer or "localhost"} '
            f'--default-calc-job-plugin {plugin} --filepath-executable {executable}`, '
            'or on this machine run `aiida-mlipal quickstart`.'
        ) from exception


def _nearest_code(name: str) -> str:
    import difflib

    from aiida.orm import AbstractCode, Computer, QueryBuilder

    query = QueryBuilder().append(AbstractCode, tag='code', project='label')
    query.append(Computer, with_node='code', project='label')
    known = sorted({f'{label}@{computer}' for label, computer in query.all()})
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f' Did you mean `{nearest[0]}`?' if nearest else ''


def find_pseudo_family(label: str | None, structures: Iterable[StructureData]) -> PseudoPotentialFamily:
    """Return the pseudopotential family, which must cover every element of ``structures``.

    :raises ValueError: if there is no such family, or it lacks an element, with the command that installs one.
    """
    from aiida.orm import QueryBuilder
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    families = {family.label: family for family in QueryBuilder().append(PseudoPotentialFamily).all(flat=True)}
    name = 'LABEL' if label is None or label in families else label
    install = (
        '`aiida-pseudo install sssp`, or from a folder with one UPF file per element '
        f'`aiida-pseudo install family FOLDER {name} -P pseudo.upf`'
    )
    if label is None:
        raise ValueError(
            f'no pseudopotential family was given: set `label.pseudo_family` to one of {sorted(families)}, or install '
            f'one with {install}.'
        )
    if label not in families:
        known = f' Installed: {", ".join(sorted(families))}.' if families else ''
        raise ValueError(f'there is no pseudopotential family `{label}`.{known} Install it with {install}.')
    family = families[label]
    elements = {kind.symbol for structure in structures for kind in structure.kinds}
    lacking = sorted(elements - set(family.elements))
    if lacking:
        raise ValueError(
            f'the pseudopotential family `{label}` lacks {", ".join(lacking)} (it has '
            f'{", ".join(sorted(family.elements))}). Install one that has all with {install}.'
        )
    return family


def find_node(identifier: int | str, expected: type, what: str) -> Any:
    """Return the node with this PK or UUID, which must be an ``expected``.

    :param what: where the identifier stands, for the message.
    :raises ValueError: if there is none, or it is something else.
    """
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    try:
        node = load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        raise ValueError(f'{what}: there is no node `{identifier}`; `verdi node show` shows one.') from exception
    if not isinstance(node, expected):
        raise ValueError(f'{what}: node {identifier} is a {type(node).__name__}, expected a {expected.__name__}.')
    return node
