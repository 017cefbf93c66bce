"""The commands and code blocks of README and documentation, for the tests that run them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
from click.testing import CliRunner, Result

__all__ = ('PLACEHOLDERS', 'ROOT', 'Block', 'Command', 'blocks', 'campaign_commands', 'commands', 'groups')

ROOT = Path(__file__).parents[1]
#: What a reader replaces by the number of a node, or the identity of a frame. Such commands need a finished campaign.
PLACEHOLDERS = ('PK', 'MODEL', 'DATASET', 'SELECTION', 'FRAME')

_FENCE = re.compile(r'^```(\w+)\n(.*?)^```', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: ``source`` is ``file:line``."""

    source: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One documented command."""

    source: str
    text: str

    @property
    def words(self) -> list[str]:
        """The command as the shell splits it."""
        return shlex.split(self.text)

    @property
    def needs_campaign(self) -> bool:
        """Whether the command is about the nodes of a finished campaign."""
        return any(word in PLACEHOLDERS for word in self.words)

    def invoke(self, **nodes: int | str) -> Result:
        """Run the command in this process, each placeholder replaced by the number of a node, or a frame's identity."""
        program, *arguments = [str(nodes[word]) if word in PLACEHOLDERS else word for word in self.words]
        return CliRunner().invoke(groups()[program], arguments)


@cache
def groups() -> dict[str, click.Command]:
    """Return our programs by name."""
    from aiida.cmdline.commands.cmd_verdi import verdi

    from aiida_mlipal.cli import main

    return {'aiida-mlipal': main, 'verdi': verdi}


def blocks(*languages: str) -> list[Block]:
    """Return all fenced blocks in one of ``languages``, in README and documentation."""
    found = []
    pages = [ROOT / 'README.md', *sorted(page for page in (ROOT / 'docs').rglob('*.md') if '_build' not in page.parts)]
    for page in pages:
        text = page.read_text(encoding='utf-8')
        for match in _FENCE.finditer(text):
            if match[1] in languages:
                line = text.count('\n', 0, match.start()) + 2
                found.append(Block(f'{page.relative_to(ROOT)}:{line}', match[1], match[2]))
    return found


def commands() -> list[Command]:
    """Return all documented shell commands: the lines of ``console`` blocks that begin with a dollar sign."""
    found = []
    for block in blocks('console'):
        for line in block.text.replace('\\\n', ' ').splitlines():
            if line.startswith('$ '):
                found.append(Command(block.source, line[2:]))
    return found


def campaign_commands() -> list[Command]:
    """Return the documented commands about a finished campaign, each once. The integration test runs them all."""
    return list({command.text: command for command in commands() if command.needs_campaign}.values())
