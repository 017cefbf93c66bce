"""``aiida-mlipal quickstart``: from nothing to a campaign that can be launched. Every step may be repeated."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from aiida.orm import Computer

__all__ = ('command',)

DEBIAN_PSEUDOS: Final = Path('/usr/share/espresso/pseudo')
#: What the compute Python must be able to import, and the package that brings it.
COMPUTE_MODULES: Final = {'mace': 'mace-torch', 'matscipy': 'matscipy', 'ase': 'ase', 'numpy': 'numpy'}

EXAMPLE: Final = """\
# A small silicon campaign for a laptop. Check it:  aiida-mlipal launch campaign.yaml --dry-run
# All keys:  aiida-mlipal launch --schema
protocol: fast
seed: 2026
structures: [silicon.cif]
seeds:
  - {{generator: isotropic_strain, n_frames: 5, min: -0.04, max: 0.04}}
  - {{generator: rattle, n_frames: 6, stdev: 0.05}}
  - {{generator: vacancy, n_frames: 2}}
label:
  engine: quantumespresso
  code: pw@{computer}
  pseudo_family: {family}
  kpoints_distance: 0.6
  parameters: {{SYSTEM: {{ecutwfc: 16, ecutrho: 64}}}}
  max_concurrent: 2
  options: {{resources: {{num_machines: 1, num_mpiprocs_per_machine: 1}}, withmpi: false}}
train:
  code: python@{computer}
  n_members: 4
budget: {{max_labels: 60, max_iterations: 3}}
"""


def _say(state: str, text: str) -> None:
    colour = {'done': 'green', 'kept': 'blue', 'missing': 'yellow'}[state]
    click.echo(click.style(f'{state:>8} ', fg=colour, bold=True) + text)


@click.command('quickstart')
@click.option('--profile', 'name', help='Profile to use or create.  [default: the default profile, else `mlipal`]')
@click.option('--pw', default=None, help='Path of pw.x.  [default: the one on the PATH]')
@click.option('--python', default=sys.executable, show_default=True, help='Python with mace-torch.')
@click.option(
    '--pseudo-dir', type=click.Path(path_type=Path), default=DEBIAN_PSEUDOS, show_default=True, help='Folder of UPFs.'
)
@click.option(
    '--pseudos',
    multiple=True,
    default=('Si.pz-vbc.UPF',),
    show_default=True,
    help='UPF file, one per element (repeat).',
)
@click.option('--family', default='debian-pz', show_default=True, help='Label of the pseudopotential family.')
@click.option(
    '--workers', type=click.IntRange(min=0), default=1, show_default=True, help='Daemon workers; 0: no daemon.'
)
@click.option('--example', type=click.Path(path_type=Path), default='campaign.yaml', show_default=True)
def command(
    name: str | None,
    pw: str | None,
    python: str,
    pseudo_dir: Path,
    pseudos: tuple[str, ...],
    family: str,
    workers: int,
    example: Path,
) -> None:
    """Set up everything on this machine, from nothing, and write an example campaign.

    Profile (SQLite and AiiDA's own broker, no services), computer, codes, pseudopotentials, daemon.
    What exists is kept.
    """
    _ensure_profile(name)
    computer = _ensure_computer()
    executable = pw or shutil.which('pw.x')
    if executable and shutil.which(executable):
        _ensure_code('pw', str(shutil.which(executable)), computer, 'quantumespresso.pw')
    else:
        _say(
            'missing', 'pw.x: run `apt install quantum-espresso quantum-espresso-data`, then this again; or give --pw.'
        )
    _ensure_python(python, computer)
    _ensure_family(family, pseudo_dir, pseudos)
    if workers:
        _ensure_daemon(workers)
    _write_example(example, computer.label, family)
    click.echo(f'\nNext: aiida-mlipal doctor {example}\n      aiida-mlipal launch {example} --wait')


def _ensure_profile(name: str | None) -> None:
    """Load the profile; create it where there is none, as ``verdi presto --use-zeromq`` does."""
    from aiida.manage import get_config
    from aiida.manage.configuration import create_profile, load_profile
    from aiida.plugins import BrokerFactory

    config = get_config(create=True)
    name = name or config.default_profile_name or 'mlipal'
    if name in config.profile_names:
        _say('kept', f'profile `{name}`')
    else:
        create_profile(
            config,
            name=name,
            email='aiida@localhost',
            storage_backend='core.sqlite_dos',
            storage_config={},
            broker_backend='core.zeromq',
            broker_config=BrokerFactory('core.zeromq').get_default_config(),
        )
        config.set_option('runner.poll.interval', 1, scope=name)
        config.set_option('daemon.timeout', 10, scope=name)  # calculations keep this machine busy, 2 s are too few
        if config.default_profile_name is None:
            config.set_default_profile(name)
        config.store()
        _say('done', f'profile `{name}`: SQLite and the ZeroMQ broker')
    load_profile(name, allow_switch=True)


def _ensure_computer() -> Computer:
    from aiida.common.exceptions import NotExistent
    from aiida.manage import get_config, get_manager
    from aiida.orm import Computer, load_computer

    try:
        computer = load_computer('localhost')
    except NotExistent:
        profile = get_manager().get_profile()
        computer = Computer(
            label='localhost',
            hostname='localhost',
            description='This machine',
            transport_type='core.local',
            scheduler_type='core.direct',
            workdir=str(Path(get_config().dirpath) / 'scratch' / profile.name),
        ).store()
        computer.configure(safe_interval=0)
        computer.set_minimum_job_poll_interval(1)
        computer.set_default_mpiprocs_per_machine(1)
        _say('done', 'computer `localhost`')
    else:
        _say('kept', 'computer `localhost`')
    return computer


def _ensure_code(label: str, executable: str, computer: Computer, plugin: str) -> None:
    from aiida.common.exceptions import NotExistent
    from aiida.orm import InstalledCode, load_code

    full_label = f'{label}@{computer.label}'
    try:
        code = load_code(full_label)
    except NotExistent:
        InstalledCode(
            label=label,
            computer=computer,
            filepath_executable=executable,
            default_calc_job_plugin=plugin,
            with_mpi=False,  # serial: OpenMPI refuses to start as root, and small cells gain nothing from it
            prepend_text='export OMP_NUM_THREADS=1',  # several jobs share this machine
        ).store()
        _say('done', f'code `{full_label}`: {executable}')
    else:
        _say('kept', f'code `{full_label}`: {code.filepath_executable}')


def _ensure_python(python: str, computer: Computer) -> None:
    """Register the compute Python, and say which packages it lacks."""
    path = shutil.which(python)
    if path is None:
        _say('missing', f'Python `{python}`: give --python the path of an interpreter that has mace-torch.')
        return
    _ensure_code('python', path, computer, 'mlipal.mace.train')
    script = 'import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])'
    lacking = subprocess.run(
        [path, '-c', script, *COMPUTE_MODULES], capture_output=True, text=True, check=False
    ).stdout.split()
    if lacking:
        packages = ' '.join(COMPUTE_MODULES[name] for name in lacking)
        _say('missing', f'Python modules {", ".join(lacking)}: run `{path} -m pip install {packages}`.')


def _ensure_family(label: str, folder: Path, files: tuple[str, ...]) -> None:
    """Make a family of the chosen files: a folder such as Debian's holds several potentials per element."""
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    if PseudoPotentialFamily.collection.count(filters={'label': label}):
        family = PseudoPotentialFamily.collection.get(label=label)
        _say('kept', f'pseudopotential family `{label}`: {", ".join(sorted(family.elements))}')
        return
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        _say(
            'missing',
            f'pseudopotentials {", ".join(absent)} in {folder}: run `apt install quantum-espresso-data`, or give '
            '--pseudo-dir and --pseudos.',
        )
        return
    family = PseudoPotentialFamily(label=label, description=f'{", ".join(files)} of {folder}')
    pseudos = [UpfData.get_or_create(folder / name) for name in files]
    elements = [pseudo.element for pseudo in pseudos]
    twice = sorted({element for element in elements if elements.count(element) > 1})
    if twice:
        raise click.ClickException(f'two files for {", ".join(twice)}; give --pseudos one file per element.')
    family.store()
    family.add_nodes([pseudo.store() for pseudo in pseudos])
    _say('done', f'pseudopotential family `{label}`: {", ".join(files)}')


def _ensure_daemon(workers: int) -> None:
    from aiida.common.exceptions import ConfigurationError
    from aiida.engine.daemon.client import DaemonException, get_daemon_client

    client = get_daemon_client()
    if client.is_daemon_running:
        _say('kept', 'daemon')
        return
    try:
        client.start_daemon(workers)
    except ConfigurationError as exception:  # AiiDA starts the daemon through `verdi`
        folder = Path(sys.executable).parent
        raise click.ClickException(f'{exception}: run `export PATH={folder}:$PATH`, then this again.') from exception
    except DaemonException as exception:
        raise click.ClickException(f'the daemon did not start: {exception}\nTry `verdi daemon start`.') from exception
    _say('done', f'daemon with {workers} worker{"s" if workers > 1 else ""}')


def _write_example(path: Path, computer: str, family: str) -> None:
    from ase.build import bulk
    from ase.io import write

    structure = path.parent / 'silicon.cif'
    if path.exists():
        _say('kept', str(path))
        return
    path.write_text(EXAMPLE.format(computer=computer, family=family))
    if not structure.exists():
        write(structure, bulk('Si', cubic=True))
    _say('done', f'{path} and {structure.name}')
