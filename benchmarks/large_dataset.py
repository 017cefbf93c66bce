"""Memory and time that a large dataset takes, in the daemon and on the compute node, through a real daemon.

    python benchmarks/large_dataset.py            # 5,000 and 50,000 frames, ten minutes on one core
    python benchmarks/large_dataset.py --quick    # 200 and 2,000 frames

Copper (cells of 8 rattled atoms, a pair potential in place of DFT: what is measured is memory) is trained for one epoch
by `mlipal.train`. While it runs the resident memory of daemon, broker and worker is sampled, and that of the job's
processes. What is printed of the daemon is the growth beyond what a training of 20 frames took before; of the job, the
largest process, Python and libraries included. `graphs` is what the job estimates that the graphs of all frames would
take; beyond 1024 MiB it trains from a database.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any, Final

import numpy as np
import psutil
from _scratch_profile import daemon_memory, machine, scratch_profile

#: A small model and large batches: it is the data that counts. `MACE` needs no pass for the mean energy.
SETTINGS: Final = {
    'seeds': [1], 'max_num_epochs': 1, 'num_channels': 4, 'max_ell': 1, 'num_interactions': 1, 'correlation': 1,
    'model': 'MACE', 'batch_size': 64, 'valid_fraction': 0.02,
}  # fmt: skip


def dataset(n_frames: int, seed: int) -> Any:
    """Return labelled frames and an isolated atom: a Morse potential between nearest images."""
    from ase import Atoms
    from ase.build import bulk

    from aiida_mlipal.science.configurations import Configurations

    cell = bulk('Cu', cubic=True) * (2, 1, 1)
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(len(cell), 1)
    lengths = np.diag(cell.cell.array)
    parts = []
    for start in range(0, n_frames, 1000):
        frames = [cell.copy() for _ in range(min(1000, n_frames - start))]
        positions = cell.positions + rng.normal(scale=0.08, size=(len(frames), len(cell), 3))
        vectors = positions[:, first] - positions[:, second]
        vectors -= lengths * np.round(vectors / lengths)
        distance = np.linalg.norm(vectors, axis=2)
        decay = np.exp(-1.5 * (distance - 2.55))
        pair = (1.2 * (decay**2 - decay) / distance)[:, :, None] * vectors
        forces = np.zeros_like(positions)
        np.add.at(forces.swapaxes(0, 1), first, pair.swapaxes(0, 1))
        np.add.at(forces.swapaxes(0, 1), second, -pair.swapaxes(0, 1))
        for frame, place in zip(frames, positions, strict=True):
            frame.positions = place
        labels = {'energy': 0.4 * (decay**2 - 2 * decay).sum(axis=1), 'forces': forces.reshape(-1, 3)}
        parts.append(Configurations.from_atoms(frames, **labels, status='labelled'))
    atom = Atoms('Cu', cell=[12.0, 12.2, 12.4], pbc=True)
    alone = {'energy': [0.0], 'forces': np.zeros((1, 3)), 'status': 'labelled', 'role': 'isolated_atom'}
    return Configurations.concatenate([*parts, Configurations.from_atoms([atom], **alone)])


def store(n_frames: int, seed: int) -> None:
    """Store a dataset and print its PK and the growth of the memory in MiB: in a process of its own."""
    from aiida import load_profile

    from aiida_mlipal.data.configurations import ConfigurationsData

    load_profile()
    frames = dataset(n_frames, seed)
    before = psutil.Process().memory_info().rss
    start = time.time()
    node = ConfigurationsData(frames, level_of_theory={'code': 'benchmark'}).store()
    growth = (psutil.Process().memory_info().rss - before) / 2**20
    size = len(node.base.repository.get_object_content(node.FILE, 'rb')) / 2**20
    print(
        f'{n_frames} frames stored in {time.time() - start:.1f} s: {size:.0f} MiB, memory +{growth:.0f} MiB', flush=True
    )
    print(node.pk)


def job_memory() -> float:
    """Return the resident memory of the largest process of a job in MiB."""
    largest = 0.0
    for process in psutil.process_iter(['cmdline', 'memory_info']):
        if 'runner.zip' in (process.info['cmdline'] or []) and process.info['memory_info'] is not None:
            largest = max(largest, process.info['memory_info'].rss / 2**20)
    return largest


def train(n_frames: int, seed: int) -> dict[str, float]:
    """Train through the daemon; return the peaks of the memory (MiB) and the wall time (s)."""
    from aiida import orm
    from aiida.engine import submit
    from aiida.plugins import WorkflowFactory

    from aiida_mlipal.runners.large_data import graph_bytes

    command = [sys.executable, __file__, '--store', str(n_frames), '--seed', str(seed)]
    *report, pk = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    print('\n'.join(report), flush=True)
    builder = WorkflowFactory('mlipal.train').get_builder()
    builder.dataset = orm.load_node(int(pk))
    builder.settings = orm.Dict(SETTINGS)
    builder.mace.code = orm.load_code('python@localhost')
    graphs = graph_bytes(builder.dataset.configurations, r_max=4.5) / 2**20
    node = submit(builder)
    start, daemon, job = time.time(), 0.0, 0.0
    while not node.is_terminated:
        daemon, job = max(daemon, daemon_memory()), max(job, job_memory())
        time.sleep(0.1)
    if not node.is_finished_ok:
        sys.exit(f'training failed: {node.exit_message}')
    return {'daemon': daemon, 'job': job, 'seconds': time.time() - start, 'graphs': graphs}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs=2, default=[5000, 50_000])
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--store', type=int, help=argparse.SUPPRESS)
    parser.add_argument('--quick', action='store_true', help='200 and 2,000 frames')
    arguments = parser.parse_args()
    if arguments.store is not None:
        store(arguments.store, arguments.seed)
        return
    sizes = [200, 2000] if arguments.quick else arguments.sizes
    found = []
    with scratch_profile():
        base = train(20, arguments.seed)
        print(f'20 frames: {base}', flush=True)
        for size in sizes:
            found.append(train(size, arguments.seed))
            print(f'{size} frames: {found[-1]}', flush=True)
    print(machine())
    print(f'seed: {arguments.seed}')
    for name, result in zip(('_small', ''), found, strict=True):
        print(f'RESULT large_dataset{name}_daemon_mib {result["daemon"] - base["daemon"]:.0f} MiB')
        print(f'RESULT large_dataset{name}_job_mib {result["job"]:.0f} MiB')
        print(f'RESULT large_dataset{name}_graphs_mib {result["graphs"]:.0f} MiB')
        print(f'RESULT large_dataset{name}_wall_s {result["seconds"]:.0f} s')


if __name__ == '__main__':
    main()
