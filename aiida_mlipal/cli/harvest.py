"""``aiida-mlipal harvest``: finished calculations of the profile become labelled datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from aiida.cmdline.params import types

if TYPE_CHECKING:
    from datetime import datetime

    from aiida.orm import Group

    from aiida_mlipal.workflows.harvest.driver import Harvest

__all__ = ('command',)


@click.command('harvest')
@click.option(
    '--level-of-theory-of',
    'example',
    metavar='PK',
    help='Only this level of theory: that of a dataset, a labelling, a campaign or a calculation.',
)
@click.option(
    '--group', type=types.GroupParamType(), help='Only calculations in this group, or called by workflows in it.'
)
@click.option(
    '--since', type=click.DateTime(['%Y-%m-%d', '%Y-%m-%dT%H:%M:%S']), help='Only calculations created then or later.'
)
@click.option(
    '--thin',
    type=click.FloatRange(min=0.0),
    help='Distance below which the first of two similar frames stays. [default: 0.01]',
)
@click.option('--without-stress', is_flag=True, help='Also take labels of crystals that have no stress.')
@click.option('--dry-run', is_flag=True, help='Show what would come of it, and store nothing.')
@click.option(
    '-G', '--label', 'target', metavar='GROUP', help='Put the datasets into this group; made if there is none.'
)
def command(
    example: str | None,
    group: Group | None,
    since: datetime | None,
    thin: float | None,
    without_stress: bool,
    dry_run: bool,
    target: str | None,
) -> None:
    """Make one labelled dataset per level of theory from finished pw.x and CP2K calculations.

    Every ionic step is a frame. What an earlier harvest has made is used again: the same call stores nothing, and new
    calculations are added.
    """
    from aiida_mlipal.calculations.functions.harvest import THIN_DISTANCE, HarvestSettings
    from aiida_mlipal.cli.common import require_profile
    from aiida_mlipal.workflows.harvest.driver import harvest

    require_profile()
    if example is None and group is None and since is None:
        raise click.UsageError(
            'say which calculations: `--level-of-theory-of PK`, `--group GROUP` or `--since DATE` '
            '(`--since 2000-01-01` takes all there are).'
        )
    settings = HarvestSettings(
        thin=THIN_DISTANCE if thin is None else thin, checks={'require_stress': False} if without_stress else {}
    )
    try:
        result = harvest(
            level_of_theory_of=None if example is None else _load(example),
            group=group,
            since=since.astimezone() if since else None,
            settings=settings,
            dry_run=dry_run,
        )
    except ValueError as exception:
        raise click.ClickException(str(exception)) from exception
    click.echo(_text(result))
    if dry_run:
        click.echo('dry run: nothing was stored')
    elif target and result.levels:
        from aiida.orm import Group as GroupNode

        collection, _ = GroupNode.collection.get_or_create(target)
        collection.add_nodes([level.dataset for level in result.levels])
        click.echo(f'in group `{target}`')


def _load(identifier: str) -> Any:
    """Return a node."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    try:
        return load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        raise click.ClickException(
            f'there is no node `{identifier}`; `verdi data mlipal configurations list` shows datasets, '
            '`verdi process list -a` calculations and campaigns.'
        ) from exception


def _text(result: Harvest) -> str:
    """Return what was found, level by level, and what was left out, and why."""
    from aiida_mlipal.cli.display import table
    from aiida_mlipal.science.level_of_theory import difference, digest

    lines = []
    rows: list[list[object]] = [
        ['level', 'calculations', 'steps', 'similar', 'rejected', 'labelled', 'atoms', 'dataset', 'level of theory']
    ]
    for number, level in enumerate(result.levels, start=1):
        frames = level.frames
        atoms = int((frames.is_labelled & frames.has_role('isolated_atom')).sum())
        name = '-' if level.dataset is None else f'{level.dataset.pk}{" new" if level.is_new else ""}'
        rejected = int((frames.status == 'rejected').sum())
        rows.append(
            [number, level.n_calculations, level.n_frames, level.n_frames - len(frames), rejected,
             int(frames.is_labelled.sum()) - atoms, atoms, name, digest(level.description)]
        )  # fmt: skip
    lines.append(table(rows) if len(rows) > 1 else 'nothing to harvest')
    for number, level in enumerate(result.levels, start=1):
        if number == 1:
            text = ', '.join(difference({}, level.description)).replace('(absent) -> ', '')
            lines.append(f'level 1: {text}')
        else:
            lines += [
                f'level {number}: as level 1, but {line}'
                for line in difference(result.levels[0].description, level.description)
            ]
        lines += [f'  {count} rejected: {reason}' for reason, count in level.rejected.most_common()]
    lines += [f'left out: {count} calculations: {reason}' for reason, count in result.left_out.most_common()]
    return '\n'.join(lines)
