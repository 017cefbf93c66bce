"""``aiida-mlipal import``: labels from files of elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aiida.orm import SinglefileData

    from aiida_mlipal.data.configurations import ConfigurationsData

__all__ = ('command', 'read_mapping')


@click.command('import')
@click.argument(
    'files', metavar='FILE...', nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    '--level-of-theory',
    'level_file',
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help='YAML file that says how the labels were computed: `code`, `functional`, and whatever else they depend on.',
)
@click.option('--e0s', default='', help='Energies of the isolated atoms in eV, for example Si=-105.2,O=-430.9.')
@click.option('--energy-key', default='', help='Name of the energy in extended XYZ. [default: REF_energy or energy]')
@click.option('--forces-key', default='', help='Name of the forces in extended XYZ. [default: REF_forces or forces]')
@click.option(
    '--stress-key', default='', help='Name of the stress, or virial, in extended XYZ. [default: REF_stress or stress]'
)
def command(
    files: tuple[Path, ...], level_file: Path, e0s: str, energy_key: str, forces_key: str, stress_key: str
) -> None:
    """Make a labelled dataset from extended XYZ, vasprun.xml or OUTCAR files.

    The level of theory is marked as declared, so that the dataset is never taken for one of this profile's own.
    """
    from aiida_mlipal.calculations.functions.imports import ImportSettings, declared, read_files
    from aiida_mlipal.cli.common import require_profile

    require_profile()
    keys = {'energy': energy_key, 'forces': forces_key, 'stress': stress_key}
    try:
        level = declared(read_mapping(level_file))
        settings = ImportSettings(keys={name: key for name, key in keys.items() if key}, e0s=_energies(e0s))
        frames = read_files([(path, path.name) for path in files], settings)
    except ValueError as exception:
        raise click.ClickException(str(exception)) from exception
    dataset, is_new = _dataset(files, level, settings)
    rejected = int((frames.status == 'rejected').sum())
    click.echo(
        f'{len(frames)} frames of {"-".join(frames.elements)}, {rejected} rejected, '
        f'{int(frames.has_role("isolated_atom").sum())} isolated atoms'
    )
    click.echo(f'{"imported as" if is_new else "imported before, as"} dataset {dataset.pk}')


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as exception:
        raise ValueError(f'{path} is no YAML: {exception}') from exception
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} holds {type(content).__name__}, expected `key: value` lines such as `functional: PBE`.'
        )
    return content


def _energies(text: str) -> dict[str, float]:
    """Return energies by element from ``Si=-105.2,O=-430.9``."""
    energies = {}
    for part in filter(None, text.replace(' ', '').split(',')):
        element, _, value = part.partition('=')
        try:
            energies[element] = float(value)
        except ValueError as exception:
            raise ValueError(f'`--e0s`: found `{part}`, expected `Si=-105.2,O=-430.9`.') from exception
    return energies


def _dataset(files: tuple[Path, ...], level: dict[str, Any], settings: Any) -> tuple[ConfigurationsData, bool]:
    """Return the dataset of these files, and whether it is new: equal files and settings are imported once."""
    from dataclasses import asdict

    from aiida import orm

    from aiida_mlipal.calculations.functions.imports import import_labels
    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.science.level_of_theory import digest

    nodes = [_file_node(path) for path in files]
    query = orm.QueryBuilder().append(
        orm.CalcFunctionNode, filters={'attributes.process_label': 'import_labels'}, tag='made'
    )
    filters = {'attributes.level_of_theory_hash': digest(level)}
    query.append(ConfigurationsData, filters=filters, with_incoming='made', project='*')
    found: list[ConfigurationsData] = sorted(query.all(flat=True), key=lambda node: node.pk)
    for dataset in found:
        inputs = dataset.creator.base.links.get_incoming().nested()
        theirs = [inputs[name].pk for name in sorted(inputs) if name.startswith('file_')]
        if theirs == [node.pk for node in nodes] and inputs['settings'].get_dict() == asdict(settings):
            return dataset, False
    named = {f'file_{index:04d}': node for index, node in enumerate(nodes)}
    made: ConfigurationsData = import_labels(orm.Dict(level), orm.Dict(asdict(settings)), **named)
    return made, True


def _file_node(path: Path) -> SinglefileData:
    """Return the node of a file: the one that holds the same bytes under the same name, or a new one."""
    from aiida import orm

    content = path.read_bytes()
    query = orm.QueryBuilder().append(orm.SinglefileData, filters={'attributes.filename': path.name}, project='*')
    for node in query.all(flat=True):
        if node.get_content('rb') == content:
            same: SinglefileData = node
            return same
    return orm.SinglefileData(path.resolve()).store()
