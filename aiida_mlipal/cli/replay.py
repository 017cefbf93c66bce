"""``aiida-mlipal replay``: what another strategy would have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aiida_mlipal.provenance.replay import Replay

__all__ = ('command',)


@click.command('replay')
@click.argument('identifier', metavar='PK')
@click.option('--strategy', help='Another selection method.  [default: that of the decision]')
@click.option('--seed', type=click.IntRange(min=0), help='Another seed.  [default: that of the decision]')
@click.option(
    '--set', 'settings', multiple=True, metavar='NAME=VALUE',
    help='Another setting of the selection, such as n_labels=30 or "quotas={trajectory: 0.3}"; may be repeated.',
)  # fmt: skip
@click.option('--json', 'as_json', is_flag=True, help='Print JSON instead of a table.')
def command(identifier: str, strategy: str | None, seed: int | None, settings: Sequence[str], as_json: bool) -> None:
    """Decide the decision PK (a SelectionData) again, with another strategy or seed, and show what would change.

    The inputs are those of the stored decision. No label is computed, and nothing is stored.
    """
    import json

    from aiida_mlipal.cli.common import require_profile
    from aiida_mlipal.provenance.replay import replay

    require_profile()
    changes = dict(_parse(item) for item in settings)
    if strategy is not None:
        changes |= {'method': strategy, 'first_method': strategy}
    try:
        result = replay(_load(identifier), changes, seed)
    except ValueError as exception:
        raise click.ClickException(str(exception)) from exception
    click.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if as_json else _text(result))


def _parse(item: str) -> tuple[str, Any]:
    """Return name and value of a setting."""
    import yaml

    name, separator, value = item.partition('=')
    if not separator or not name:
        raise click.ClickException(f'`--set {item}` is not NAME=VALUE, for example `--set n_labels=30`.')
    return name.strip(), yaml.safe_load(value)


def _load(identifier: str) -> Any:
    """Return the decision with this PK or UUID."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    from aiida_mlipal.data.selection import SelectionData

    try:
        node = load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        raise click.ClickException(
            f'there is no node `{identifier}`; `verdi data mlipal selection list` shows decisions.'
        ) from exception
    if not isinstance(node, SelectionData):
        kind = getattr(node, 'process_label', None) or type(node).__name__
        raise click.ClickException(
            f'node {node.pk} is a {kind} and not a decision; `verdi data mlipal selection list` shows decisions.'
        )
    return node


def _text(result: Replay) -> str:
    """Return what would have changed as a table."""
    from aiida_mlipal.cli.display import table

    lines = [
        f'decision {result.selection}: {result.stored["method"]} with seed {result.stored["seed"]}, '
        f'replayed with {result.new["method"]} and seed {result.new["seed"]}',
        *result.notes,
    ]
    rows: list[list[object]] = [['frame', '', 'stored', 'replay', 'gain, stored', 'gain, replay', 'error (eV/Å)']]
    for change in result.changes:
        rows.append(
            [
                change.frame_id, change.group, change.stored_class, change.new_class, _short(change.stored_gain),
                _short(change.new_gain), _short(change.calibrated),
            ]
        )  # fmt: skip
    lines += ['', table(rows), '']
    counts = [
        f'{sum(change.group == group for change in result.changes)} {group}'
        for group in ('taken by both', 'only in the stored decision', 'only in the replay')
    ]
    lines.append(f'{", ".join(counts)}; {result.n_changed_classes} frames have another class.')
    if result.differing_columns:
        lines.append(f'Columns that differ: {", ".join(result.differing_columns)}.')
    else:
        lines.append('The replay is the stored decision, bit for bit.')
    return '\n'.join(lines)


def _short(value: float | None) -> float | None:
    """Return a number with four digits, as a table shows it."""
    return None if value is None else float(f'{value:.4g}')
