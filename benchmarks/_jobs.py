"""Programs of jobs, run as a cluster runs them but without AiiDA around them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.science.configurations import Configurations


def new_folder() -> Path:
    """Return a folder for a job; it stays."""
    return Path(tempfile.mkdtemp(prefix='mlipal-job-'))


def start(
    runner: str,
    folder: Path,
    settings: Mapping[str, Any],
    frames: Mapping[str, Configurations] | None = None,
    members: Sequence[Path] = (),
    **environment: str,
) -> subprocess.Popen[bytes]:
    """Start the job of ``runner`` in ``folder``.

    :param frames: by the name of the file, without its suffix.
    :param members: model files.
    """
    for name, item in (frames or {}).items():
        item.save(folder / f'{name}.npz')
    for index, member in enumerate(members):
        (folder / f'member_{index:02d}.model').write_bytes(member.read_bytes())
    (folder / 'settings.json').write_text(json.dumps(settings), encoding='utf-8')
    (folder / 'runner.zip').write_bytes(build(runner))
    (folder / 'result.json').unlink(missing_ok=True)
    with (folder / 'log').open('wb') as log:
        return subprocess.Popen(
            [sys.executable, '-I', 'runner.zip'],
            cwd=folder,
            env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(job: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    """Return what the job has left in ``result.json``, whether it came to its end or not.

    :raises RuntimeError: if there is none.
    """
    job.wait(300)
    path = folder / 'result.json'
    if not path.exists():
        raise RuntimeError(f'the job left no result: {(folder / "log").read_text(encoding="utf-8")[-2000:]}')
    return dict(json.loads(path.read_text(encoding='utf-8')))


def finished(job: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    """Return the result of a job that has done all that it was asked for.

    :raises RuntimeError: if not.
    """
    result = finish(job, folder)
    members = result.get('members', {}).values()
    failed = [member['reason'] for member in members if member['status'] != 'ok']
    if result['status'] != 'ok' or failed:
        raise RuntimeError(f'{result.get("traceback", "")}{failed}: {(folder / "log").read_text()[-1000:]}')
    return result


def kill(job: subprocess.Popen[bytes]) -> None:
    """End a job and its processes as a node that fails does: all at once."""
    for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]:
        process.kill()
    job.wait()


def wait_for(path: Path, job: subprocess.Popen[bytes]) -> None:
    """Wait until a running job has written ``path``.

    :raises RuntimeError: if the job ends before.
    """
    while not path.exists():
        if job.poll() is not None:
            raise RuntimeError(f'the job ended with {job.returncode} before it wrote {path.name}')
        time.sleep(0.05)
