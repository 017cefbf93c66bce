"""``verdi data mlipal``: list, show and export configurations, models and selections."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from aiida.cmdline.groups import VerdiCommandGroup
from aiida.cmdline.utils.decorators import load_backend_if_not_loaded

from aiida_mlipal.cli.model_import import command as import_model

if TYPE_CHECKING:
    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.data.model import MlipModelData
    from aiida_mlipal.data.selection import SelectionData

__all__ = ('data_group',)

#: Columns of a list: header -> attribute.
_CONFIGURATIONS: Final = {
    'Frames': 'n_frames', 'Atoms': 'n_total_atoms', 'Elements': 'elements', 'Labelled': 'n_labelled',
    'Rejected': 'n_rejected', 'Roles': 'roles', 'Level of theory': 'level_of_theory_hash',
}  # fmt: skip
_MODEL: Final = {
    'Kind': 'kind', 'Members': 'n_members', 'Elements': 'elements', 'r_max': 'r_max', 'Type': 'dtype',
    'Level of theory': 'level_of_theory_hash', 'Digest': 'digest',
}  # fmt: skip
_SELECTION: Final = {
    'Iteration': 'iteration', 'Method': 'method', 'Candidates': 'n_candidates', 'Selected': 'n_selected',
    'Random stream': 'n_stream', 'Uncertain share': 'uncertain_share',
}  # fmt: skip

_SHA256: Final = re.compile('[0-9a-f]{64}')
_IDENTIFIER = click.argument('identifier', metavar='PK')
_OUTPUT = click.option('-o', '--output', type=click.Path(path_type=Path), required=True, help='Where to write.')
_LIMIT = click.option(
    '-l', '--limit', type=click.IntRange(min=1), default=30, show_default=True, help='Show the newest so many.'
)

# Typed by hand: AiiDA's group class is not.
data_group: click.Group = VerdiCommandGroup(
    'mlipal', help='Inspect the structures, potentials and decisions of active-learning campaigns.'
)


def _load(identifier: str, name: str) -> Any:
    """Return a node of the entry point ``mlipal.<name>``, or say which command is the right one."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node
    from aiida.plugins import DataFactory

    load_backend_if_not_loaded()
    try:
        node = load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        message = f'no node `{identifier}` found; `verdi data mlipal {name} list` shows what there is.'
        raise click.ClickException(message) from exception
    if not isinstance(node, DataFactory(f'mlipal.{name}')):
        kind = type(node).__name__
        others = {'ConfigurationsData': 'configurations', 'MlipModelData': 'model', 'SelectionData': 'selection'}
        command = f'data mlipal {others[kind]} show' if kind in others else 'node show'
        raise click.ClickException(f'node {node.pk} is not a {name} but a {kind}; try `verdi {command} {node.pk}`.')
    return node


def _text(value: Any) -> str:
    """Return one cell of a table: short, and readable."""
    if value is None:
        return '-'
    if isinstance(value, dict):
        return ', '.join(f'{key} {_text(item)}' for key, item in value.items())
    if isinstance(value, list):
        return '-'.join(str(item) for item in value)
    if isinstance(value, float):
        return f'{value:.4g}'
    return value[:12] if _SHA256.fullmatch(str(value)) else str(value)


def _list(name: str, columns: dict[str, str], limit: int) -> None:
    """Print the nodes of one kind, newest first."""
    from aiida.cmdline.utils.common import format_local_time
    from aiida.cmdline.utils.echo import echo_tabulate
    from aiida.orm import QueryBuilder
    from aiida.plugins import DataFactory

    load_backend_if_not_loaded()
    query = QueryBuilder()
    projections = ['id', 'ctime', *(f'attributes.{attribute}' for attribute in columns.values())]
    query.append(DataFactory(f'mlipal.{name}'), tag='node', project=projections)
    query.order_by({'node': [{'ctime': 'desc'}, {'id': 'desc'}]})
    total = query.count()
    query.limit(limit)
    rows = [
        [pk, format_local_time(ctime, '%Y-%m-%d %H:%M'), *map(_text, values)] for pk, ctime, *values in query.iterall()
    ]
    if rows:
        echo_tabulate(rows, headers=['PK', 'Created', *columns])
    more = f'; `--limit {total}` shows all' if len(rows) < total else ''
    click.echo(f'\n{len(rows)} of {total} {name} node(s){more}')


def _attributes(node: Any, names: Iterable[str]) -> None:
    from aiida.cmdline.utils.echo import echo_tabulate

    rows = [['PK', str(node.pk)], ['UUID', node.uuid]]
    creator = node.creator
    if creator is not None:
        rows.append(['made by', f'{creator.process_label}<{creator.pk}>'])
    rows += [[name, _text(node.base.attributes.get(name, None))] for name in names]
    echo_tabulate(rows)


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from aiida.cmdline.utils.echo import echo_tabulate

    click.echo(f'\n{title}')
    echo_tabulate([[_text(cell) for cell in row] for row in rows], headers=headers, disable_numparse=True)


def _new(path: Path) -> Path:
    """Return ``path`` if nothing is there yet."""
    if path.exists():
        raise click.ClickException(f'{path} exists; remove it or give another name with `-o`.')
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _require_suffix(path: Path, *suffixes: str) -> None:
    if path.suffix not in suffixes:
        expected = ' or '.join(suffixes)
        message = f'cannot tell the format from `{path.name}`; end it in {expected}, `-o {path.stem}{suffixes[0]}`.'
        raise click.ClickException(message)


# -- configurations --------------------------------------------------------------------------------------------------


configurations_group: click.Group = VerdiCommandGroup(
    'configurations', help='Seeds, candidate pools and labelled datasets.'
)
data_group.add_command(configurations_group)


@configurations_group.command('list')
@_LIMIT
def configurations_list(limit: int) -> None:
    """List all, newest first."""
    _list('configurations', _CONFIGURATIONS, limit)


@configurations_group.command('show')
@_IDENTIFIER
def configurations_show(identifier: str) -> None:
    """Show what is in one node, by composition and by reason of rejection."""
    node: ConfigurationsData = _load(identifier, 'configurations')
    frames = node.configurations
    _attributes(node, [*_CONFIGURATIONS.values(), 'level_of_theory'])
    rows = []
    for formula, index in frames.group_by_composition().items():
        part = frames.take(index)
        energies = part.energy[part.is_labelled] / part.n_atoms[part.is_labelled]
        span = f'{energies.min():.3f} .. {energies.max():.3f}' if len(energies) else '-'
        rejected = int((part.status == 'rejected').sum())
        rows.append([formula, len(part), len(energies), rejected, dict(Counter(part.origin.tolist())), span])
    _table('By composition', ['Formula', 'Frames', 'Labelled', 'Rejected', 'Origin', 'Energy, eV/atom'], rows)
    reasons = Counter(frames.reason[frames.status == 'rejected'].tolist())
    if reasons:
        _table('Rejected', ['Frames', 'Reason'], [[number, reason] for reason, number in reasons.most_common()])


@configurations_group.command('export')
@_IDENTIFIER
@_OUTPUT
def configurations_export(identifier: str, output: Path) -> None:
    """Write extended XYZ with MACE's keys REF_energy, REF_forces, REF_stress (.extxyz), or all columns (.npz)."""
    node: ConfigurationsData = _load(identifier, 'configurations')
    _require_suffix(output, '.extxyz', '.xyz', '.npz')
    save = node.configurations.save if output.suffix == '.npz' else node.configurations.write_extxyz
    save(_new(output))
    click.echo(f'{node.n_frames} frames -> {output}')


# -- models ----------------------------------------------------------------------------------------------------------


model_group: click.Group = VerdiCommandGroup('model', help='Machine-learned potentials, single or as a committee.')
data_group.add_command(model_group)
model_group.add_command(import_model)


@model_group.command('list')
@_LIMIT
def model_list(limit: int) -> None:
    """List all, newest first."""
    _list('model', _MODEL, limit)


@model_group.command('show')
@_IDENTIFIER
def model_show(identifier: str) -> None:
    """Show one model or committee and the errors of its members."""
    node: MlipModelData = _load(identifier, 'model')
    more = [name for name in ('heads', 'architecture', 'origin') if node.base.attributes.get(name, None)]
    _attributes(node, [*_MODEL.values(), *more, 'uncertainty', 'software', 'settings_hash'])
    errors = node.base.attributes.get('errors')
    by_member = errors if node.kind == 'committee' else {'member_00': errors}
    seeds: list[int | None] = list(node.seeds) or [None] * node.n_members  # nobody knows those of an imported model
    rows = [
        [name, seed, sha256, by_member.get(Path(name).stem)]
        for name, seed, sha256 in zip(node.member_names, seeds, node.sha256, strict=True)
    ]
    _table('Members', ['File', 'Seed', 'SHA-256', 'Errors'], rows)


@model_group.command('export')
@_IDENTIFIER
@_OUTPUT
def model_export(identifier: str, output: Path) -> None:
    """Write the .model files into a folder; a single model may go into one file whose name ends in .model."""
    node: MlipModelData = _load(identifier, 'model')
    names = node.member_names
    if output.suffix == '.model':
        if len(names) > 1:
            message = f'a committee of {len(names)} does not fit into one file; give a folder, `-o {output.stem}`.'
            raise click.ClickException(message)
        targets = [_new(output)]
    else:
        _new(output).mkdir()
        targets = [output / name for name in names]
    for name, target in zip(names, targets, strict=True):
        target.write_bytes(node.read(name))
    click.echo(f'{len(names)} model file(s) -> {output}')


# -- selections ------------------------------------------------------------------------------------------------------


selection_group: click.Group = VerdiCommandGroup(
    'selection', help='Decisions: which candidates were labelled, and why.'
)
data_group.add_command(selection_group)


@selection_group.command('list')
@_LIMIT
def selection_list(limit: int) -> None:
    """List all, newest first."""
    _list('selection', _SELECTION, limit)


@selection_group.command('show')
@_IDENTIFIER
def selection_show(identifier: str) -> None:
    """Show thresholds, the number of candidates per class, and the labelled frames with reasons."""
    node: SelectionData = _load(identifier, 'selection')
    decision = node.decision
    _attributes(node, [*_SELECTION.values(), 'seed', 'thresholds', 'quantiles'])
    _table('Classes', ['Class', 'Candidates'], list(decision.counts.items()))
    columns = decision.columns()
    order = sorted((rank, row) for row, rank in enumerate(columns['rank'].tolist()) if rank >= 0)
    names = ('rank', 'frame_id', 'klass', 'calibrated', 'distance', 'reason')
    rows = [[str(columns[name][row]) if name == 'reason' else columns[name][row].item() for name in names]
            for _, row in order]  # fmt: skip
    _table('To be labelled', ['Rank', 'Frame', 'Class', 'Expected force error, eV/Å', 'Distance', 'Reason'], rows)


@selection_group.command('export')
@_IDENTIFIER
@_OUTPUT
def selection_export(identifier: str, output: Path) -> None:
    """Write one row per candidate as .csv, or rows and attributes as .json."""
    import csv
    import json

    from aiida_mlipal.science.plain import to_plain

    node: SelectionData = _load(identifier, 'selection')
    _require_suffix(output, '.csv', '.json')
    columns = {name: to_plain(column) for name, column in node.decision.columns().items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    with _new(output).open('w', newline='', encoding='utf-8') as handle:
        if output.suffix == '.csv':
            writer = csv.DictWriter(handle, fieldnames=list(columns))
            writer.writeheader()
            writer.writerows(rows)
        else:
            attributes = {key: value for key, value in node.base.attributes.items() if not key.startswith('array|')}
            json.dump({'uuid': node.uuid, **attributes, 'candidates': rows}, handle, indent=1)
    click.echo(f'{len(rows)} candidates -> {output}')
