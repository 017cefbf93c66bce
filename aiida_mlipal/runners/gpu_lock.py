"""One job at a time on each GPU of a computer that has no scheduler. Only Python's standard library here.

Each GPU has a file in ``/tmp``, the same for all users and profiles of the computer, and a job holds a lock (``flock``)
on those of its GPUs. The kernel releases it when the job's process and all that were forked from it have ended,
however they ended.

A job waits in front of one more lock, the turnstile, until it is its turn to collect GPUs. Only one job collects at a
time, so that two jobs of several GPUs each can neither wait for each other nor be overtaken for ever.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ('GPUS', 'hold_gpus', 'share_gpus', 'visible_gpus')

#: Environment variable by which a job says how many GPUs it wants for itself.
GPUS: Final = 'MLIPAL_EXCLUSIVE_GPUS'
_VISIBLE: Final = 'CUDA_VISIBLE_DEVICES'
_LOCKS: Final = '/tmp'
_PAUSE_S: Final = 0.5
_held: list[int] = []  # open files of this process: closing one would release its lock


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``, else all that nvidia-smi lists.

    :raises ValueError: if there are none.
    """
    text = os.environ.get(_VISIBLE)
    if text is None and shutil.which('nvidia-smi'):
        query = ['nvidia-smi', '--query-gpu=index', '--format=csv,noheader']
        text = subprocess.run(query, capture_output=True, text=True, check=False).stdout.replace('\n', ',')
    gpus = [name.strip() for name in (text or '').split(',') if name.strip()]
    if not gpus:
        found = f'`{_VISIBLE}` is empty' if text is not None else f'there is no nvidia-smi and no `{_VISIBLE}`'
        raise ValueError(
            f'no GPU was found on this computer ({found}): remove `gpus` from the options of the job and set '
            f'`device: cpu`, or set `environment_variables: {{{_VISIBLE}: "0"}}`.'
        )
    return gpus


def hold_gpus() -> float:
    """Wait until the GPUs that the job wants are free, and keep them until this process and its children have ended.

    ``CUDA_VISIBLE_DEVICES`` then names them. To be called before anything touches CUDA.

    :returns: seconds spent waiting; 0 for a job that wants none.
    :raises ValueError: if the computer has fewer.
    """
    wanted = int(os.environ.get(GPUS, 0))
    if not wanted:
        return 0.0
    gpus = visible_gpus()
    if wanted > len(gpus):
        raise ValueError(f'the job wants {wanted} GPUs, and this computer has {len(gpus)}: lower `gpus`.')
    start = time.monotonic()
    turnstile = _open('turnstile')
    fcntl.flock(turnstile, fcntl.LOCK_EX)
    taken = _collect(gpus, wanted)
    os.close(turnstile)
    os.environ['CUDA_DEVICE_ORDER'] = 'PCI_BUS_ID'  # the order of nvidia-smi; CUDA's own puts the fastest first
    os.environ[_VISIBLE] = ','.join(taken)
    return time.monotonic() - start


def share_gpus(index: int, count: int = 1) -> None:
    """Leave ``count`` GPUs of the job to this process, which has the ``index``-th place of several at work. Before
    anything touches CUDA.

    A process that wants one has what there is where ``CUDA_VISIBLE_DEVICES`` names no more than one.
    """
    gpus = os.environ.get(_VISIBLE, '').split(',') if count == 1 else visible_gpus()
    if len(gpus) > 1:
        os.environ[_VISIBLE] = ','.join(gpus[(index * count + more) % len(gpus)] for more in range(count))


def _collect(gpus: Sequence[str], wanted: int) -> list[str]:
    """Lock ``wanted`` of ``gpus``, one after the other as they become free."""
    taken: list[str] = []
    while True:
        for gpu in gpus:
            if gpu in taken:
                continue
            lock = _open(f'gpu-{gpu}')
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            _held.append(lock)
            taken.append(gpu)
            if len(taken) == wanted:
                return taken
        time.sleep(_PAUSE_S)


def _open(name: str) -> int:
    """Return an open lock file, which other users may lock as well: for that it needs to be readable, no more."""
    path = Path(_LOCKS, f'aiida-mlipal-{name.replace("/", "_")}.lock')
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        mask = os.umask(0o022)
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o644))
        except PermissionError:
            pass  # another user was faster
        finally:
            os.umask(mask)
        return os.open(path, os.O_RDONLY)
