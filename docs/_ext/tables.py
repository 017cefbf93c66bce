"""Tables of the reference, written from the code at each build, so that the two cannot differ."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.pycode import ModuleAnalyzer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ('TABLES', 'setup')

GROUPS = {
    'aiida.calculations': 'Calculations',
    'aiida.calculations.monitors': 'Monitors',
    'aiida.cmdline.data': 'Subcommands of `verdi data`',
    'aiida.data': 'Data',
    'aiida.parsers': 'Parsers',
    'aiida.workflows': 'Workflows',
    'aiida_mlipal.engines': 'Label engines',
}


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in line) + ' |' for line in lines) + '\n'


def _type(annotation: Any) -> str:
    """Return a type as one reads it: without modules and without ``Annotated``."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _type(typing.get_args(annotation)[0])
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return ' or '.join(repr(argument) for argument in arguments)
    if type(None) in arguments:
        return ' or '.join(_type(argument) for argument in arguments if argument is not type(None))
    if isinstance(annotation, type) and not arguments:
        return annotation.__name__
    return str(annotation).replace('typing.', '')


def _summary(item: Any) -> str:
    """Return the first sentence of a docstring."""
    paragraph = ' '.join((inspect.getdoc(item) or '').split('\n\n')[0].split())
    return paragraph.replace('``', '`').partition('. ')[0].removesuffix('.') + '.'


def _section(annotation: Any) -> Any:
    """Return the model of a section, which may be one that can be left out, or None for any other value."""
    from pydantic import BaseModel

    kinds = (annotation, *typing.get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def campaign_file() -> str:
    """Return one table for each section of the campaign file."""
    from pydantic import BaseModel

    from aiida_mlipal.workflows.campaign_schema import Campaign

    sections: dict[str, type[BaseModel]] = {'': Campaign}
    pending = ['']
    while pending:
        name = pending.pop(0)
        for key, field in sections[name].model_fields.items():
            found = _section(field.annotation)
            if found is not None:
                # Every stage has the same `options`: one table is enough.
                section = 'options' if key == 'options' else f'{name}.{key}'.lstrip('.')
                if section not in sections:
                    sections[section] = found
                    pending.append(section)
    parts = []
    for name, model in sorted(sections.items(), key=lambda item: item[0] == 'options'):
        rows = []
        for key, field in model.model_fields.items():
            nested = _section(field.annotation) is not None
            kind = 'section, see below' if nested else f'`{_type(field.annotation)}`'
            default = None if nested or field.is_required() else field.get_default(call_default_factory=True)
            default_text = (
                'required' if field.is_required() else f'`{default}`' if default not in (None, [], {}) else ''
            )
            rows.append((f'`{key}`', kind, default_text, field.description))
        title = 'Section `options` of every stage' if name == 'options' else f'Section `{name}`'
        parts.append(f'## {title if name else "Top level"}\n\n{_table(("key", "type", "default", "meaning"), rows)}')
    return '\n'.join(parts)


def nodes() -> str:
    """Return one table of queryable attributes for each Data class."""
    from aiida.orm import ArrayData

    parts = []
    for point in sorted(entry_points(group='aiida.data'), key=lambda point: point.name):
        if not point.name.startswith('mlipal.'):
            continue
        cls = point.load()
        rows = [
            (f'`{key}`', f'`{_type(field.annotation)}`', field.description)
            for key, field in cls.AttributesModel.model_fields.items()
            if key not in ArrayData.AttributesModel.model_fields
        ]
        parts.append(
            f'## `{cls.__name__}`\n\nEntry point `{point.name}`. {_summary(cls)}\n\n'
            + _table(('attribute', 'type', 'meaning'), rows)
        )
    return '\n'.join(parts)


def entry_point_tables() -> str:
    """Return one table for each group of entry points."""
    parts = []
    for group, title in GROUPS.items():
        ours = [p for p in entry_points(group=group) if p.dist is not None and p.dist.name == 'aiida-mlipal']
        points = sorted(ours, key=lambda p: p.name)
        rows = [(f'`{p.name}`', f'`{p.value.partition(":")[2]}`', _summary(p.load())) for p in points]
        parts.append(f'## {title} (`{group}`)\n\n{_table(("entry point", "class", "what it is"), rows)}')
    return '\n'.join(parts)


def settings() -> str:
    """Return one table for each mapping of settings, with the comments of its dataclass as the meanings."""
    from aiida_mlipal.workflows.checks import settings_class

    parts = []
    titles = {'explore': 'Settings of `explore`', 'warm_start': '`train.warm_start`'}
    for section in ('explore', 'warm_start', 'selection', 'convergence', 'budget'):
        cls, reserved = settings_class(section)
        # The campaign fills in what is reserved, from its seed.
        rows = [row for name, *row in _settings_rows(cls) if name not in reserved]
        parts.append(f'### {titles.get(section, f"`{section}`")}\n\n{_table(("key", "default", "meaning"), rows)}')
    return '\n'.join(parts)


def _settings_rows(cls: type) -> Iterable[tuple[str, str, str, str]]:
    """Yield name, key, default and meaning of each field of a dataclass; meanings are its comments."""
    comments = {
        name: text
        for base in reversed(cls.__mro__[:-1])
        for (owner, name), text in ModuleAnalyzer.for_module(base.__module__).find_attr_docs().items()
        if owner == base.__name__
    }
    for field in dataclasses.fields(cls):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        text = 'required' if default is dataclasses.MISSING else f'`{default}`'
        meaning = ' '.join(comments.get(field.name, [])).replace('``', '`').strip()
        yield field.name, f'`{field.name}`', text, meaning


def training() -> str:
    """Return the table of the settings of a training, with the options of MACE that follow from each."""
    from aiida_mlipal.science.mace_options import SETTING_OF
    from aiida_mlipal.science.training_settings import TrainingSettings

    options: dict[str, list[str]] = {}
    for option, setting in SETTING_OF.items():
        options.setdefault(setting, []).append(f'`--{option}`')
    rows = [
        (key, default, ', '.join(options.get(name, [])), meaning)
        for name, key, default, meaning in _settings_rows(TrainingSettings)
    ]
    return _table(('key', 'default', 'option of MACE', 'meaning'), rows)


def refused_options() -> str:
    """Return the table of MACE's options that cannot be given."""
    from aiida_mlipal.science.mace_options import REFUSED

    return _table(('option of MACE', 'instead'), [(f'`{option}`', reason) for option, reason in REFUSED.items()])


def generators() -> str:
    """Return the table of seed generators with their parameters."""
    from aiida_mlipal.science.seeds import GENERATORS

    rows = []
    for name, function in GENERATORS.items():
        parameters = [
            f'`{p.name}: {p.default}`'
            for p in inspect.signature(function).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != 'n_frames'
        ]
        rows.append((f'`{name}`', ', '.join(parameters), _summary(function)))
    return _table(('generator', 'parameters', 'what it does'), rows)


def protocols() -> str:
    """Return what each protocol sets."""
    import yaml

    from aiida_mlipal.workflows import checks

    path = Path(checks.__file__).parent / 'protocols' / 'active_learning.yaml'
    content = yaml.safe_load(path.read_text(encoding='utf-8'))['protocols']
    values: dict[str, dict[str, object]] = {}

    def flatten(name: str, protocol: str, mapping: dict[str, Any]) -> None:
        for key, value in mapping.items():
            if isinstance(value, dict):
                flatten(f'{name}{key}.', protocol, value)
            elif key != 'description':
                values.setdefault(f'{name}{key}', {})[protocol] = value

    for protocol, mapping in content.items():
        flatten('', protocol, mapping)
    rows = [(f'`{key}`', *(found.get(protocol, '') for protocol in content)) for key, found in values.items()]
    lines = [f'- `{name}`: {mapping["description"]}' for name, mapping in content.items()]
    return '\n'.join(lines) + '\n\n' + _table(('key', *content), rows)


def plans() -> str:
    """Return one table for each kind of plan, of the keys that it has beside those of molecular dynamics."""
    from aiida_mlipal.science.exploration_plans import DynamicsSettings, Plan
    from aiida_mlipal.science.plan_kinds import PLANS

    shared = {field.name for cls in (DynamicsSettings, Plan) for field in dataclasses.fields(cls)}
    parts = []
    for kind, cls in PLANS.items():
        rows = [row for name, *row in _settings_rows(cls) if name not in shared]
        table = _table(('key', 'default', 'meaning'), rows) if rows else 'No keys of its own.\n'
        parts.append(f'### `{kind}`\n\n{_summary(cls)}\n\n{table}')
    return '\n'.join(parts)


def variables() -> str:
    """Return the table of collective variables with their keys."""
    from aiida_mlipal.science.collective_variables import VARIABLES

    rows = []
    for name, cls in VARIABLES.items():
        rows.append((f'**`{name}`**', '', '', _summary(cls)))
        rows += [('', *row) for _, *row in _settings_rows(cls)]
    return _table(('type', 'key', 'default', 'meaning'), rows)


def starts() -> str:
    """Return the table of sources of starts."""
    from aiida_mlipal.science.starts import SOURCES

    return _table(('source', 'frames'), [(f'`{name}`', meaning) for name, meaning in SOURCES.items()])


def ensembles() -> str:
    """Return the table of ensembles of molecular dynamics."""
    from aiida_mlipal.science.exploration_plans import ENSEMBLES

    return _table(('ensemble', 'how it moves'), [(f'`{name}`', meaning) for name, meaning in ENSEMBLES.items()])


TABLES: dict[str, Callable[[], str]] = {
    'campaign_file': campaign_file,
    'nodes': nodes,
    'entry_points': entry_point_tables,
    'settings': settings,
    'training': training,
    'refused_options': refused_options,
    'generators': generators,
    'protocols': protocols,
    'plans': plans,
    'starts': starts,
    'variables': variables,
    'ensembles': ensembles,
}


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / '_build' / 'tables'
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in TABLES.items():
        (folder / f'{name}.md').write_text(build(), encoding='utf-8')


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the tables before Sphinx reads the pages that include them."""
    app.connect('builder-inited', _write)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
