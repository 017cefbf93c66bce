"""``aiida-mlipal launch``: check a campaign file, then start the campaign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiida.engine import ProcessBuilder

    from aiida_mlipal.workflows.campaign_schema import Campaign

__all__ = ('command',)


@click.command('launch')
@click.argument('path', metavar='CAMPAIGN.YAML', type=click.Path(path_type=Path), required=False)
@click.option('--dry-run', is_flag=True, help='Say what would run; submit nothing.')
@click.option(
    '--control', metavar='METHOD', help='Run the campaign again with this selection, `random` for example, and compare.'
)
@click.option('--wait', is_flag=True, help='Follow the campaign to its end and print the closing table.')
@click.option('--schema', is_flag=True, help='Print the JSON schema of campaign files.')
@click.option('--interval', type=click.FloatRange(min=1), default=10, show_default=True, help='With --wait: seconds.')
def command(path: Path | None, dry_run: bool, control: str | None, wait: bool, schema: bool, interval: float) -> None:
    """Check the whole CAMPAIGN.YAML, then start the campaign. Nothing is submitted if anything is wrong."""
    if schema:
        _print_schema()
        return
    if path is None:
        raise click.UsageError('give a campaign file; `aiida-mlipal quickstart` writes an example.')
    campaign, builder = _check(path, control)
    if dry_run:
        click.echo(_plan(campaign, builder))
        return
    pk = _submit(builder)
    if wait:
        _wait(pk, interval)
    click.echo(f'campaign PK {pk}')
    if not wait:
        click.echo(f'Follow it with `aiida-mlipal status {pk} --watch`.')


def _print_schema() -> None:
    import json

    from aiida_mlipal.workflows.campaign_file import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _check(path: Path, control: str | None) -> tuple[Campaign, ProcessBuilder]:
    """Return the campaign and its builder, with a control arm if one was asked for, which AiiDA has validated.

    :raises click.ClickException: with everything that is wrong.
    """
    from aiida_mlipal.workflows.campaign_file import build, load_campaign

    try:
        campaign = load_campaign(path)
    except ValueError as exception:
        raise click.ClickException(str(exception)) from exception
    from aiida_mlipal.cli.common import require_profile

    require_profile()
    try:
        builder = build(campaign)
    except ValueError as exception:
        lines = '\n'.join(f'  - {line}' for line in str(exception).splitlines())
        raise click.ClickException(f'{path}: nothing was submitted:\n{lines}') from exception
    if control is not None:
        from aiida_mlipal.workflows.controlled import ControlledCampaignWorkChain

        builder = ControlledCampaignWorkChain.get_builder_from_campaign(builder, control)
    problem = builder.process_class.spec().inputs.validate(builder._inputs(prune=True))
    if problem is not None:
        raise click.ClickException(f'{path}: nothing was submitted:\n  - {problem.port}: {problem.message}')
    return campaign, builder


def _plan(campaign: Campaign, builder: ProcessBuilder) -> str:
    """Return what would run: stages, codes, computers, expected labels, budget."""
    from aiida_mlipal.cli.display import duration, table

    options = {'label': dict(builder.label.engine_inputs['options']), 'evaluate': builder.evaluate.metadata.options}
    codes = {'label': builder.label.engine_inputs['code'], 'evaluate': builder.evaluate.code}
    if 'engine' in builder.prescreen:
        codes['prescreen'] = builder.prescreen.engine_inputs['code']
        options['prescreen'] = dict(builder.prescreen.engine_inputs['options'])
    for stage in ('train', 'explore'):
        codes[stage], options[stage] = builder[stage].mace.code, builder[stage].mace.metadata.options
    head = ['stage', 'code', 'computer', 'scheduler', 'machines x ranks', 'GPUs', 'queue', 'wall time']
    rows: list[list[object]] = [[*head]]
    for stage in (name for name in ('label', 'train', 'explore', 'prescreen', 'evaluate') if name in codes):
        given, computer = options[stage], codes[stage].computer
        resources = given.get('resources', {})
        ranks = resources.get('num_mpiprocs_per_machine', resources.get('tot_num_mpiprocs', '?'))
        wall = given.get('max_wallclock_seconds')
        rows.append(
            [
                stage,
                codes[stage].full_label,
                f'{computer.label} ({computer.hostname})',
                computer.scheduler_type,
                f'{resources.get("num_machines", 1)} x {ranks}',
                given.get('gpus'),
                given.get('queue_name'),
                duration(wall) if wall else None,
            ]
        )
    lines = [table(rows), '', *_expectation(campaign, builder)]
    return '\n'.join([*lines, 'Nothing was submitted (dry run).'])


def _expectation(campaign: Campaign, builder: ProcessBuilder) -> list[str]:
    """Return how many labels the campaign will ask for, and what limits it."""
    from aiida_mlipal.science.selection_settings import SelectionSettings
    from aiida_mlipal.science.settings import from_dict

    recipe = builder.seeds.settings.get_dict()['recipe']
    n_parents = len(builder.seeds.structures)
    n_seeds = n_parents * sum(item.get('n_frames', 1) for item in recipe if item['generator'] != 'isolated_atoms')
    selection = from_dict(SelectionSettings, builder.selection.get_dict())
    budget: dict[str, Any] = builder.budget.get_dict()
    iterations, limit = budget['max_iterations'], budget.get('max_labels')
    most = n_seeds + iterations * selection.n_labels
    control = builder.control.value if 'control' in builder else None
    training = builder.training.get_dict()
    spent = f'{most}' if limit is None else f'{min(most, limit)} (budget {limit})'
    return [
        f'protocol   {campaign.protocol}, seed {campaign.seed}, labels by {campaign.label.engine}',
        f'seeds      {n_seeds} frames of {n_parents} structure{"s" if n_parents > 1 else ""}, and isolated atoms',
        f'training   {_uncertainty(training)}',
        f'iterations at most {iterations}, each with up to {selection.n_labels} labels '
        f'({selection.n_stream} of them drawn at random)',
        f'labels     at most {spent}, besides isolated atoms and {builder.validation["n_volumes"]} volumes '
        'per structure for the equation of state',
        *([] if control is None else [f'control    all of it again with selection by `{control}`; labels are shared']),
    ]


def _uncertainty(training: Mapping[str, Any]) -> str:
    """Return what is trained, and where its uncertainty comes from."""
    if training.get('uncertainty') == 'llpr':
        return 'one model, its uncertainty from last-layer prediction rigidity'
    if training.get('uncertainty') == 'heads':
        return 'one model, its uncertainty from the spread of further readouts'
    return f'committee of {training["n_members"]}'


def _submit(builder: ProcessBuilder) -> int:
    """Submit the campaign and return its PK.

    :raises click.ClickException: if no daemon would take it up, with what to type.
    """
    from aiida.engine import submit

    from aiida_mlipal.cli.services import probe

    services = probe()
    if not services.running:
        raise click.ClickException('nothing was submitted: ' + ' '.join(services.problems))
    for problem in services.problems:
        click.echo(f'WARNING: {problem}', err=True)
    pk: int = submit(builder).pk
    return pk


def _wait(pk: int, interval: float) -> None:
    """Follow the campaign to its end, print the closing table; exit status 1 if it failed."""
    from aiida.orm import load_node

    from aiida_mlipal.cli.display import closing_table
    from aiida_mlipal.cli.status import follow

    node = load_node(pk)
    follow(node, interval)
    click.echo('\n' + closing_table(node))
    if not node.is_finished_ok:
        click.echo(f'campaign PK {pk}')
        raise click.ClickException(f'the campaign did not end well; see `verdi process report {pk}`.')
