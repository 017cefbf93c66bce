"""A profile of its own with a real daemon for a benchmark, and what the daemon takes. It goes with its folder."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil


@contextmanager
def scratch_profile(workers: int = 1) -> Iterator[Path]:
    """Set up everything with ``aiida-mlipal quickstart``, and give the folder of the profile; stop the daemon after."""
    os.environ['OMP_NUM_THREADS'] = '1'
    os.environ['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    with tempfile.TemporaryDirectory() as folder:
        os.environ['AIIDA_PATH'] = folder
        command = ['aiida-mlipal', 'quickstart', '--workers', str(workers), '--example', f'{folder}/campaign.yaml']
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        from aiida import load_profile
        from aiida.engine.daemon.client import get_daemon_client

        load_profile()
        try:
            yield Path(folder)
        finally:
            get_daemon_client().stop_daemon(wait=True, timeout=120)


def daemon_processes() -> list[psutil.Process]:
    """Return daemon, broker and workers, without the jobs that they started."""
    from aiida.engine.daemon.client import get_daemon_client

    daemon = psutil.Process(get_daemon_client().get_daemon_pid())
    return [daemon, *daemon.children()]


def daemon_cpu() -> float:
    """Return the CPU seconds that daemon, broker and workers have taken so far, jobs not counted."""
    return float(sum(sum(process.cpu_times()[:2]) for process in daemon_processes()))


def daemon_memory() -> float:
    """Return the resident memory of daemon, broker and workers in MiB."""
    return float(sum(process.memory_info().rss for process in daemon_processes()) / 2**20)


def wait(node: Any, timeout: float = 7200.0) -> float:
    """Wait until ``node`` has ended; return the seconds.

    :raises TimeoutError: if it does not end in time: a deadlock.
    """
    start = time.time()
    while not node.is_terminated:
        if time.time() - start > timeout:
            raise TimeoutError(f'{node.process_label}<{node.pk}> still runs after {timeout:.0f} s')
        time.sleep(0.2)
    return time.time() - start


def rattled(atoms: Any, n_frames: int, seed: int, scale: float = 0.05) -> list[Any]:
    """Return copies of ``atoms`` with normal displacements of ``scale`` Å."""
    rng = np.random.default_rng(seed)
    frames = [atoms.copy() for _ in range(n_frames)]
    for frame in frames:
        frame.positions += rng.normal(scale=scale, size=frame.positions.shape)
    return frames


def machine() -> str:
    """Return the line that says where and how busy."""
    return f'machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end'
