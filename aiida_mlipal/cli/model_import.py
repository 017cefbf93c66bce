"""``verdi data mlipal model import``: a model of elsewhere as a node that a training can start from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from aiida.cmdline.utils.decorators import load_backend_if_not_loaded

if TYPE_CHECKING:
    from aiida.orm import AbstractCode

    from aiida_mlipal.data.model import MlipModelData

__all__ = ('command',)

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command('import')
@click.argument('file', type=_FILE)
@click.option('--sha256', required=True, help='SHA-256 of the file, from where it was published.')
@click.option(
    '--level-of-theory',
    'level_file',
    type=_FILE,
    required=True,
    help='YAML file that says how the labels were computed that it learned from: `code`, `functional`, and so on.',
)
@click.option('--head', help='The head with that level of theory, if the model has several.')
@click.option('--code', 'code_label', help='A Python that has mace-torch, as label@computer. [default: the only one]')
@click.option('-L', '--label', help='Label of the node. [default: name of the file]')
@click.option('-D', '--description', default='', help='Description of the node, for example where the file is from.')
def command(
    file: Path,
    sha256: str,
    level_file: Path,
    head: str | None,
    code_label: str | None,
    label: str | None,
    description: str,
) -> None:
    """Make a model node from a MACE model FILE, such as a foundation model.

    A model is a pickle, which may run anything when it is read. So it is read by a job on the computer of the code, and
    only if it has the given SHA-256.
    """
    from aiida_mlipal.calculations.functions.imports import declared
    from aiida_mlipal.cli.import_ import read_mapping

    load_backend_if_not_loaded()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256.lower():
        raise click.ClickException(
            f'{file} has the SHA-256 {found}, expected {sha256.lower()}: download it again, or look up the SHA-256 of '
            'this version where it was published. Nothing was read.'
        )
    try:
        level = declared(read_mapping(level_file))
        known = _known(found, level)
        if known is not None:
            click.echo(f'imported before, as model {known.pk}')
            return
        code = _code(code_label)
    except ValueError as exception:
        raise click.ClickException(str(exception)) from exception
    model = _inspect(file, level, {'sha256': found, **({'head': head} if head else {})}, code)
    model.label, model.description = label or file.name, description
    elements = model.elements
    shown = '-'.join(elements) if len(elements) < 10 else f'{len(elements)} elements, {elements[0]} to {elements[-1]}'
    click.echo(f'{shown}; r_max {model.base.attributes.get("r_max"):g} Å; {model.base.attributes.get("dtype")}')
    click.echo(f'imported as model {model.pk}')


def _known(sha256: str, level: dict[str, Any]) -> MlipModelData | None:
    """Return the model that was imported from this file before, with the same level of theory."""
    from aiida.orm import QueryBuilder

    from aiida_mlipal.data.model import MlipModelData
    from aiida_mlipal.science.level_of_theory import digest

    filters = {
        'attributes.origin': 'imported',
        'attributes.sha256': [sha256],
        'attributes.level_of_theory_hash': digest(level),
    }
    known: MlipModelData | None = QueryBuilder().append(MlipModelData, filters=filters, project='*').first(flat=True)
    return known


def _code(label: str | None) -> AbstractCode:
    """Return the code of a label, or the only one there is.

    :raises ValueError: if there is none of that label, none at all, or several to choose from.
    """
    from aiida.orm import AbstractCode, QueryBuilder

    from aiida_mlipal.workflows.checks import find_code

    if label is not None:
        return find_code(label, 'mlipal.mace.train')
    filters = {'attributes.input_plugin': 'mlipal.mace.train'}
    codes = QueryBuilder().append(AbstractCode, filters=filters, project='*').all(flat=True)
    usable: list[AbstractCode] = sorted((code for code in codes if not code.is_hidden), key=lambda code: code.pk)
    if len(usable) != 1:
        labels = ', '.join(code.full_label for code in usable) or 'none'
        raise ValueError(
            f'codes for `mlipal.mace.train`: {labels}; expected one. Say which, `--code LABEL@COMPUTER`; '
            '`aiida-mlipal quickstart` makes one on a laptop.'
        )
    return usable[0]


def _inspect(file: Path, level: dict[str, Any], settings: dict[str, Any], code: AbstractCode) -> MlipModelData:
    """Run the job that reads the file, and wait for it."""
    from aiida.engine import run_get_node
    from aiida.orm import Dict, SinglefileData
    from aiida.plugins import CalculationFactory

    from aiida_mlipal.workflows.builder import job_options

    outputs, node = run_get_node(
        CalculationFactory('mlipal.mace.inspect'),
        code=code,
        file=SinglefileData(file.resolve()),
        level_of_theory=Dict(level),
        settings=Dict(settings),
        metadata={'options': job_options(code, {'max_wallclock_seconds': 1800})},
    )
    if not node.is_finished_ok:
        raise click.ClickException(f'{node.exit_message} See `verdi process report {node.pk}`.')
    model: MlipModelData = outputs['model']
    return model
