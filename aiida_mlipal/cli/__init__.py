"""The console script ``aiida-mlipal``: one file per command, imported when it is called."""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword
from typing import Final

import click
from aiida.cmdline.groups import VerdiCommandGroup
from aiida.cmdline.params import options, types

__all__ = ('main',)

#: command -> the line that `aiida-mlipal --help` shows; the command lives in the module of the same name.
COMMANDS: Final = {
    'quickstart': 'Set up everything on this machine, from nothing, and write an example campaign.',
    'doctor': 'Run one small job per code and say what is wrong.',
    'launch': 'Check a campaign file and start the campaign.',
    'status': 'Show where a campaign stands.',
    'report': 'Write the report of a campaign, one HTML file.',
    'harvest': 'Turn finished calculations of this profile into labelled datasets.',
    'import': 'Make a labelled dataset from extended XYZ or VASP files.',
    'explain': 'Tell why a frame was taken or not, or what a decision did.',
    'replay': 'Decide a stored decision again with another strategy, at no cost.',
    'lineage': 'Prove that the provenance of a campaign has no gaps.',
}


class LazyGroup(VerdiCommandGroup):
    """A group that imports a command only to run it, so that ``--help`` and tab completion stay fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; unknown names get AiiDA's suggestions."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            module = f'{cmd_name}_' if iskeyword(cmd_name) else cmd_name
            self.add_command(import_module(f'{__name__}.{module}').command, cmd_name)
        command: click.Command | None = super().get_command(ctx, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section('Commands'):
            formatter.write_dl(list(COMMANDS.items()))


@click.group('aiida-mlipal', cls=LazyGroup, context_settings={'help_option_names': ['-h', '--help']})
@options.PROFILE(type=types.ProfileParamType(load_profile=True), expose_value=False)
@click.version_option(package_name='aiida-mlipal')
def main() -> None:
    """Active-learning campaigns for machine-learned interatomic potentials, with full provenance."""
