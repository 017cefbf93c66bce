"""How much faster a committee trains when its members share a GPU, or the cores, than one after the other.

    python benchmarks/committee_packing.py --device cuda     # 1, 2 and 4 members at a time on the GPU
    python benchmarks/committee_packing.py                   # the same on the cores of this machine
    python benchmarks/committee_packing.py --quick           # few epochs, one run of each

Copper (cells of 32 rattled atoms, labelled with EMT), the program of a training job alone, without AiiDA around it. The
same committee is trained with `max_parallel` 1 and with more, in turns; figures are medians of the ratios of their wall
times, which include what a job does once (loading torch, writing files, the errors of the models). On a GPU the members
share it; the best `max_parallel` is the number to set for models of that size. On the CPU a job trains no more members
at a time than it has cores for, times `threads`: the benchmark counts the members at work, ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _scratch_profile import machine
from training_overhead import dataset


def train(frames: Any, settings: dict[str, Any]) -> tuple[float, int]:
    """Return the wall seconds of a training job, and the most members that were at work at a time."""
    import psutil

    from aiida_mlipal.calculations.bundle import build

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames.save(folder / 'dataset.npz')
        (folder / 'settings.json').write_text(json.dumps(settings), encoding='utf-8')
        (folder / 'runner.zip').write_bytes(build('train'))
        start = time.time()
        with (folder / 'log').open('wb') as log:
            job = psutil.Popen([sys.executable, '-I', 'runner.zip'], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
            most = 0
            while job.poll() is None:
                at_work = [child for child in job.children() if child.status() != psutil.STATUS_ZOMBIE]
                most = max(most, len(at_work))
                time.sleep(0.1)
        wall = time.time() - start
        if job.returncode:
            sys.exit((folder / 'log').read_text(encoding='utf-8')[-3000:])
        members = json.loads((folder / 'result.json').read_text(encoding='utf-8'))['members']
        failed = {name: member['reason'] for name, member in members.items() if member['status'] != 'ok'}
        if failed:
            sys.exit(f'members failed: {failed}')
    return wall, most


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--members', type=int, default=4)
    parser.add_argument('--threads', type=int, default=1, help='per member')
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--epochs', type=int, default=60)
    parser.add_argument('--channels', type=int, default=16, help='`num_channels`; larger models fill a GPU sooner')
    parser.add_argument('--runs', type=int, default=3, help='of each; figures are medians')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--quick', action='store_true', help='12 frames, 10 epochs, one run')
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.frames, arguments.epochs, arguments.runs = 12, 10, 1

    tried = sorted({1, 2, arguments.members})
    walls: dict[int, list[float]] = {parallel: [] for parallel in tried}
    peaks: dict[int, int] = dict.fromkeys(tried, 0)
    for run in range(arguments.runs):
        frames = dataset(arguments.frames, arguments.seed + run)
        settings = {
            'seeds': list(range(arguments.seed, arguments.seed + arguments.members)),
            'device': arguments.device,
            'threads': arguments.threads,
            'max_num_epochs': arguments.epochs,
            'num_channels': arguments.channels,
        }
        for parallel in tried if run % 2 == 0 else reversed(tried):
            wall, most = train(frames, {**settings, 'max_parallel': parallel})
            walls[parallel].append(wall)
            peaks[parallel] = max(peaks[parallel], most)
            print(f'run {run}, max_parallel {parallel}: {wall:.1f} s, {most} at work', flush=True)
    ratios = {
        parallel: [alone / wall for alone, wall in zip(walls[1], walls[parallel], strict=True)] for parallel in tried
    }
    cores = len(os.sched_getaffinity(0))
    print(machine())
    print(f'seeds: {arguments.seed}..{arguments.seed + arguments.runs - 1}, {arguments.members} members, {cores} cores')
    for parallel in tried[1:]:
        values = ratios[parallel]
        print(f'max_parallel {parallel}: {min(values):.2f} to {max(values):.2f} times faster than in turn')
        print(f'RESULT packing_ratio_{arguments.device}_{parallel} {statistics.median(values):.2f} 1')
    most = max(peaks.values())
    print(f'RESULT packing_members_at_work_{arguments.device} {most} 1')
    if arguments.device == 'cpu':
        print(f'RESULT packing_threads_per_core {most * arguments.threads / cores:.2f} 1')


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    main()
