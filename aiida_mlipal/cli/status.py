"""``aiida-mlipal status``: where a campaign stands."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aiida.orm import WorkChainNode

    from aiida_mlipal.provenance.training_progress import TrainingReader

__all__ = ('command', 'follow', 'show')


@click.command('status')
@click.argument('campaign', metavar='PK')
@click.option('--watch', is_flag=True, help='Show it again and again until the campaign ends.')
@click.option(
    '--interval', type=click.FloatRange(min=1), default=10, show_default=True, help='Seconds between two looks.'
)
def command(campaign: str, watch: bool, interval: float) -> None:
    """Show where the campaign PK stands: stage, labels, errors, training, budget left."""
    from aiida_mlipal.cli.common import load_campaign_node

    node = load_campaign_node(campaign)
    if watch:
        follow(node, interval)
    else:
        click.echo(show(node))


def show(node: WorkChainNode, reader: TrainingReader | None = None) -> str:
    """Return the state of a campaign as text, with warnings if nobody works on it.

    :param reader: of the trainings that run, if the state is shown again and again.
    """
    from aiida_mlipal.cli.display import controlled_text, status_text
    from aiida_mlipal.cli.services import probe
    from aiida_mlipal.provenance.control import CONTROLLED, arms_of, comparison_of
    from aiida_mlipal.provenance.status import read_status
    from aiida_mlipal.provenance.training_progress import TrainingReader

    texts = []
    arms = arms_of(node)
    for name, arm in arms.items():
        status = read_status(arm)
        training = (reader or TrainingReader()).read(status.training_jobs)
        text = status_text(status, training, probe().problems if status.is_active else ())
        texts.append(f'{name}:\n{text}' if node.process_label == CONTROLLED else text)
    if node.process_label == CONTROLLED:
        texts.insert(0, controlled_text(node, arms, comparison_of(node)))
    return '\n'.join(texts)


def follow(node: WorkChainNode, interval: float) -> None:
    """Print the state whenever it changes, until the campaign ends. On a terminal it is redrawn in place."""
    import sys

    from aiida_mlipal.provenance.training_progress import TrainingReader

    last, reader = '', TrainingReader()
    while True:
        ended = node.is_terminated  # before reading, so that the last state is shown too
        text = show(node, reader)
        if sys.stdout.isatty():
            click.clear()
            click.echo(text)
        elif _without_times(text) != last:
            click.echo(text + '\n')
            last = _without_times(text)
        if ended:
            return
        time.sleep(interval)


def _without_times(text: str) -> str:
    """Return the text without what changes with the clock alone."""
    return '\n'.join(re.split(', for |, about .* left$', line)[0] for line in text.splitlines())
