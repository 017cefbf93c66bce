"""``aiida-mlipal report``: the report of a campaign, one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ('command',)


@click.command('report')
@click.argument('campaign', metavar='PK')
@click.option('-o', '--output', type=click.Path(dir_okay=False, path_type=Path), help='[default: campaign-PK.html]')
def command(campaign: str, output: Path | None) -> None:
    """Write the report of the campaign PK, finished or running: one HTML file without anything around it."""
    from aiida_mlipal.cli.common import load_campaign_node
    from aiida_mlipal.report import write_report

    node = load_campaign_node(campaign)
    path = output or Path(f'campaign-{node.pk}.html')
    if not path.parent.is_dir():
        raise click.ClickException(f'there is no folder `{path.parent}`; make it, or give another --output.')
    write_report(node, path)
    click.echo(f'report {path.resolve()}')
