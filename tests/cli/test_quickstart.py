"""From nothing: in a process of its own, with an AiiDA folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def run(tmp_path: Path):
    """Return a function that runs the command on a machine without any AiiDA configuration."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, 'AIIDA_PATH': str(tmp_path / 'aiida'), 'OMP_NUM_THREADS': '1'}
        script = 'from aiida_mlipal.cli import main; main()'
        return subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', script, *arguments],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    (tmp_path / 'aiida').mkdir()
    return run


def test_quickstart_twice(run, tmp_path: Path, pw_executable: str, pseudo_dir: Path, compute_python: str) -> None:
    first = run('quickstart', '--workers', '0')
    assert first.returncode == 0, first.stdout + first.stderr
    assert 'kept' not in first.stdout
    assert 'missing' not in first.stdout
    config = json.loads((tmp_path / 'aiida' / '.aiida' / 'config.json').read_text())
    assert config['default_profile'] == 'mlipal'
    profile = config['profiles']['mlipal']
    assert profile['storage']['backend'] == 'core.sqlite_dos'
    assert profile['process_control']['backend'] == 'core.zeromq'
    assert profile['options'] == {'runner.poll.interval': 1, 'daemon.timeout': 10}
    (tmp_path / 'campaign.yaml').write_text('# mine\n')
    second = run('quickstart', '--workers', '0')
    assert second.returncode == 0, second.stdout + second.stderr
    assert 'done' not in second.stdout
    assert second.stdout.count('kept') == 6
    assert (tmp_path / 'campaign.yaml').read_text() == '# mine\n'


def test_quickstart_says_what_is_missing(run, tmp_path: Path) -> None:
    result = run(
        'quickstart', '--workers', '0', '--pw', '/no/pw.x', '--python', '/no/python', '--pseudo-dir', str(tmp_path)
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'pw.x: run `apt install quantum-espresso' in result.stdout
    assert 'Python `/no/python`: give --python' in result.stdout
    assert 'pseudopotentials Si.pz-vbc.UPF' in result.stdout


def test_other_commands_without_profile(run) -> None:
    result = run('status', '1')
    assert result.returncode == 1
    assert 'there is no AiiDA profile: run `aiida-mlipal quickstart`' in result.stderr
