"""``aiida-mlipal lineage``: does everything have a history?"""

from __future__ import annotations

import click

__all__ = ('command',)


@click.command('lineage')
@click.argument('identifier', metavar='PK')
def command(identifier: str) -> None:
    """Prove that what led to node PK (a campaign, a model) has no gaps; exit status 1 if it has."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    from aiida_mlipal.cli.common import require_profile
    from aiida_mlipal.provenance.lineage import trace

    require_profile()
    try:
        node = load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        raise click.ClickException(
            f'there is no node `{identifier}`; `verdi process list -a` shows campaigns.'
        ) from exception
    lineage = trace(node)
    click.echo(lineage.to_text())
    if lineage.gaps:
        raise SystemExit(1)
