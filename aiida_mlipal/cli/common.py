"""What several commands need: a loaded profile, and a campaign by its number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aiida.orm import WorkChainNode

__all__ = ('load_campaign_node', 'require_profile')


def require_profile() -> None:
    """Make sure that a profile is loaded.

    :raises click.ClickException: if there is none, with what makes one.
    """
    from aiida.manage import get_manager

    if get_manager().get_profile() is None:
        raise click.ClickException(
            'there is no AiiDA profile: run `aiida-mlipal quickstart` on a laptop, or `verdi profile setup`.'
        )


def load_campaign_node(identifier: str) -> WorkChainNode:
    """Return the campaign, with a control arm or without, that has this PK or UUID.

    :raises click.ClickException: if there is no such node, or it is not a campaign, with those that are.
    """
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import WorkChainNode, load_node

    from aiida_mlipal.provenance.control import CAMPAIGN, CONTROLLED

    require_profile()
    try:
        node = load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        raise click.ClickException(f'there is no campaign `{identifier}`. {_known()}') from exception
    if not isinstance(node, WorkChainNode) or node.process_label not in (CAMPAIGN, CONTROLLED):
        kind = getattr(node, 'process_label', None) or type(node).__name__
        raise click.ClickException(f'node {identifier} is a {kind}, not a campaign. {_known()}')
    return node


def _known() -> str:
    """Return the newest campaigns of the profile as a sentence."""
    from aiida.orm import QueryBuilder, WorkChainNode

    from aiida_mlipal.provenance.control import CAMPAIGN, CONTROLLED

    filters = {'attributes.process_label': {'in': [CAMPAIGN, CONTROLLED]}}
    query = QueryBuilder().append(WorkChainNode, filters=filters, project='id')
    newest = sorted(query.all(flat=True), reverse=True)[:5]
    if not newest:
        return 'This profile has none yet: start one with `aiida-mlipal launch campaign.yaml`.'
    return f'The newest are {", ".join(str(pk) for pk in newest)}.'
