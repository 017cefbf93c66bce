"""``aiida-mlipal explain``: why a frame was taken or not, or what a decision did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aiida.orm import Node

__all__ = ('command',)


@click.command('explain')
@click.argument('identifier', metavar='FRAME_ID|PK')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON instead of sentences.')
def command(identifier: str, as_json: bool) -> None:
    """Tell why a frame was taken or not, or what a decision did with its candidates. Nothing is run again.

    FRAME_ID is the identity of a frame, or its beginning. PK is that of a decision (SelectionData) or of a campaign.
    """
    import json

    from aiida_mlipal.cli.common import require_profile
    from aiida_mlipal.provenance.explain import explain_frame, summarise
    from aiida_mlipal.provenance.frames import find_frame

    require_profile()
    node = _load(identifier)
    if node is not None:
        summaries = [summarise(selection) for selection in _selections(node)]
        content: Any = [summary.to_dict() for summary in summaries]
        text = '\n\n'.join(summary.to_text() for summary in summaries)
    else:
        try:
            story = explain_frame(find_frame(identifier))
        except ValueError as exception:
            raise click.ClickException(str(exception)) from exception
        content, text = story.to_dict(), story.to_text()
    click.echo(json.dumps(content, indent=2, ensure_ascii=False) if as_json else text)


def _load(identifier: str) -> Node | None:
    """Return the node with this PK or UUID; None if ``identifier`` must be that of a frame, which begins with an f."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    if identifier.startswith('f') and '-' not in identifier:
        return None
    try:
        return load_node(identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as exception:
        raise click.ClickException(
            f'there is neither a node nor a frame `{identifier}`: identities of frames begin with an f, '
            '`verdi data mlipal selection list` shows decisions.'
        ) from exception


def _selections(node: Node) -> list[Any]:
    """Return the decisions that a node is or has, in order."""
    from aiida.orm import ProcessNode

    from aiida_mlipal.data.selection import SelectionData
    from aiida_mlipal.workflows.outputs import output_namespace

    if isinstance(node, SelectionData):
        return [node]
    found = {}
    if isinstance(node, ProcessNode):
        found = output_namespace(node, 'selections')
    if not found:
        kind = getattr(node, 'process_label', None) or type(node).__name__
        raise click.ClickException(
            f'node {node.pk} is a {kind} without decisions: give the identity of a frame, or the PK of a campaign '
            'or of a SelectionData.'
        )
    return [found[name] for name in sorted(found)]
