"""Shared fixtures: one AiiDA profile, emptied for each file, on SQLite with AiiDA's own ZeroMQ broker (no services)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ['aiida.tools.pytest_fixtures']

PSEUDO_DIR = Path('/usr/share/espresso/pseudo')

# AiiDA starts the daemon with the `verdi` on the path, also where pytest was started without an active environment.
os.environ['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
# One thread per process: several jobs share the machine, and results are equal to the last bit.
os.environ['OMP_NUM_THREADS'] = '1'


def _require(present: bool, what: str, mend: str) -> None:
    """Skip where a code is missing on a laptop; fail where the codes are required (CI)."""
    if present:
        return
    message = f'{what} is missing; {mend}'
    if os.environ.get('MLIPAL_REQUIRE_CODES'):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope='session', autouse=True)
def aiida_profile(aiida_config, aiida_profile_factory) -> Iterator[object]:
    """Provide a temporary profile with a broker, so that a real daemon can run."""
    with aiida_profile_factory(aiida_config, broker_backend='core.zeromq') as profile:
        aiida_config.set_option('runner.poll.interval', 1, scope=profile.name)
        aiida_config.set_option('daemon.timeout', 20, scope=profile.name)
        aiida_config.set_option('warnings.development_version', False, scope=profile.name)
        yield profile


@pytest.fixture(scope='module', autouse=True)
def _fresh_profile(aiida_profile) -> None:
    """Empty the profile for each file of tests: labels that others computed would be found and used again.

    It also sets AiiDA's logging anew, which commands of `verdi` that ran in this process have changed.
    """
    aiida_profile.reset_storage()


@pytest.fixture(scope='session')
def pw_executable() -> str:
    """Return the path of a real pw.x."""
    path = shutil.which('pw.x')
    _require(path is not None, 'pw.x', 'run `apt install quantum-espresso quantum-espresso-data`.')
    assert path is not None
    return path


@pytest.fixture(scope='session')
def pseudo_dir() -> Path:
    """Return the folder of UPF files that comes with Debian's Quantum ESPRESSO."""
    _require(PSEUDO_DIR.is_dir(), str(PSEUDO_DIR), 'run `apt install quantum-espresso-data`.')
    return PSEUDO_DIR


@pytest.fixture(scope='session')
def plumed_kernel() -> None:
    """Make sure that PLUMED and its kernel are there."""
    from aiida_mlipal.runners.bias.plumed import check_kernel
    from aiida_mlipal.runners.main import SettingsRefused

    try:
        check_kernel()
    except SettingsRefused:
        _require(False, 'a PLUMED kernel', 'run `pip install --no-deps hillclimber`, which brings one.')


@pytest.fixture(scope='session')
def cp2k_executable() -> str:
    """Return the path of a real CP2K, and make sure that the plugin for it is there."""
    import importlib.util

    path = next(filter(None, map(shutil.which, ('cp2k.ssmp', 'cp2k.psmp', 'cp2k'))), None)
    _require(path is not None, 'cp2k', 'run `apt install cp2k cp2k-data`.')
    plugin = importlib.util.find_spec('aiida_cp2k')
    _require(plugin is not None, 'Python package aiida-cp2k', "run `pip install 'aiida-mlipal[cp2k]'`.")
    assert path is not None
    return path


@pytest.fixture(scope='session')
def compute_python() -> str:
    """Return a Python interpreter that has MACE and TorchSim: the one that runs the tests."""
    import importlib.util
    import sys

    missing = [name for name in ('mace', 'torch_sim') if importlib.util.find_spec(name) is None]
    _require(not missing, f'Python package {missing}', "run `pip install 'aiida-mlipal[mace]'`.")
    return sys.executable


@pytest.fixture
def aiida_localhost(aiida_computer_local):
    """Return the local computer, asked for its jobs once a second and not without pause."""
    computer = aiida_computer_local(label='localhost')
    computer.set_minimum_job_poll_interval(1.0)
    return computer


@pytest.fixture
def python_code(aiida_localhost, compute_python):
    """Return an InstalledCode for the compute environment's Python on a local computer."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import InstalledCode, load_code

    try:
        return load_code(f'python@{aiida_localhost.label}')
    except NotExistent:
        code = InstalledCode(
            label='python',
            computer=aiida_localhost,
            filepath_executable=compute_python,
            with_mpi=False,
            default_calc_job_plugin='mlipal.mace.train',
        )
        return code.store()
