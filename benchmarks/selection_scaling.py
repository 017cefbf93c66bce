"""How long it takes to select 100 of many candidates, and how much memory, for pools of a thousand to a million frames.

    python benchmarks/selection_scaling.py                 # up to a million candidates: a few minutes
    python benchmarks/selection_scaling.py --quick         # up to a hundred thousand: half a minute

Descriptors have 256 components. The training set has 200 frames. Two kinds of pools: `scattered`, independent normal
numbers, where all candidates are about as good and an exact greedy choice can leave out least work; and `trajectories`,
frames that drift along 100 trajectories, as in a campaign. Each size and strategy runs in a process of its own, whose
peak memory (resident, the interpreter and the pool included) is what is printed; it picks three times, and the median
counts. Exponents are slopes of the logarithms from ten thousand candidates on. The last table is a whole decision with
filters, trust window and duplicates, of frames of 8 atoms.

To time a current numpy, let it use the kernels of the machine: `env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

N_FEATURES, N_REFERENCE, N_PICKS, N_REPEATS, N_ATOMS = 256, 200, 100, 3, 8
STRATEGIES = ('farthest_point', 'max_det')
POOLS = ('scattered', 'trajectories')


def descriptors_of(pool: str, n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return descriptors of candidates and of the training set."""
    rng = np.random.default_rng(seed)
    table, reference = rng.normal(size=(n, N_FEATURES)), rng.normal(size=(N_REFERENCE, N_FEATURES))
    if pool == 'trajectories':
        length = max(1, n // 100)
        for start in range(0, n, length):
            block = table[start : start + length]
            block *= 0.1
            np.cumsum(block, axis=0, out=block)
            block += rng.normal(size=N_FEATURES)
    return table, reference


def identities(n: int, seed: int) -> NDArray[np.str_]:
    """Return identities in an order that has nothing to do with that of the candidates."""
    return np.array([f'f{number:031x}' for number in np.random.default_rng(seed).permutation(n).tolist()])


def time_strategy(strategy: str, pool: str, n: int) -> dict[str, float]:
    """Return seconds to scale the descriptors and to pick, and the peak memory in MB."""
    from aiida_mlipal.science.strategies.pick import Candidates, pick

    descriptors, reference = descriptors_of(pool, n, 1)
    start = time.perf_counter()
    candidates = Candidates.from_descriptors(descriptors, reference, identities(n, 2))
    scaling = time.perf_counter() - start
    del descriptors
    seconds = []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        picks = pick(strategy, candidates, N_PICKS, 3)
        seconds.append(time.perf_counter() - start)
    assert len(picks.order) == min(N_PICKS, n)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {'scaling': scaling, 'seconds': statistics.median(seconds), 'worst': max(seconds), 'memory': memory}


def time_decision(n: int) -> dict[str, float]:
    """Return the seconds and the peak memory (MB) of a whole decision on a pool of ``n`` frames."""
    from ase.build import bulk

    from aiida_mlipal.science.calibration import Thresholds
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.science.evaluation import Evaluation
    from aiida_mlipal.science.selection import decide
    from aiida_mlipal.science.selection_settings import SelectionSettings

    rng = np.random.default_rng(4)
    cell = bulk('Si', cubic=True)
    positions = np.tile(cell.positions, (n, 1)) + rng.normal(scale=0.05, size=(N_ATOMS * n, 3))
    descriptors, reference = descriptors_of('trajectories', n, 1)
    same = {'frame_id': identities(n, 2), 'n_atoms': np.full(n, N_ATOMS)}
    pool = Configurations.from_columns(
        {
            **same, 'numbers': np.full(N_ATOMS * n, 14), 'positions': positions,
            'cell': np.tile(cell.cell.array, (n, 1, 1)), 'reference_cell': np.tile(cell.cell.array, (n, 1, 1)),
            'pbc': np.ones((n, 3), dtype=bool), 'role': np.full(n, 'candidate'),
        }
    )  # fmt: skip
    evaluation = Evaluation(
        **same, energy=np.zeros(n), forces=np.zeros((N_ATOMS * n, 3)), stress=np.zeros((n, 6)), stress_std=np.zeros(n),
        energy_std=np.zeros(n),
        forces_std=rng.uniform(0.01, 0.5, N_ATOMS * n), member_energy=np.zeros((n, 4)), descriptors=descriptors,
    )  # fmt: skip
    del descriptors
    start = time.perf_counter()
    decision = decide(
        pool, evaluation, reference, seed=1, iteration=1,
        settings=SelectionSettings(first_method='max_det', n_labels=N_PICKS),
        thresholds=Thresholds(0.1, 2.0), calibrated=evaluation.max_forces_std,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    assert decision.n_selected == min(N_PICKS, n)
    return {'seconds': seconds, 'memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_a_process(*arguments: str) -> dict[str, float]:
    """Return what a measurement in a process of its own printed."""
    output = subprocess.run([sys.executable, __file__, '--measure', *arguments], check=True, capture_output=True)
    result: dict[str, float] = json.loads(output.stdout)
    return result


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return the slope of the logarithms from ten thousand candidates on."""
    used = [(size, value) for size, value in zip(sizes, values, strict=True) if size >= 10_000]
    if len(used) < 2:
        return float('nan')
    return float(np.polyfit(*np.log(np.array(used).T), 1)[0])


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='Stop at a hundred thousand candidates.')
    parser.add_argument('--measure', nargs='+', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, *rest = options.measure
        found = time_decision(int(rest[0])) if what == 'decision' else time_strategy(what, rest[0], int(rest[1]))
        print(json.dumps(found))
        return
    sizes = [1000, 10_000, 100_000] if options.quick else [1000, 10_000, 100_000, 1_000_000]
    kernels = sorted({f'{item["architecture"]} x{item["num_threads"]}' for item in _blas()})
    print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, {kernels}')
    print(f'{N_FEATURES} components, {N_PICKS} picks, {N_REFERENCE} training frames, median of {N_REPEATS}')
    at_100k: dict[tuple[str, str], dict[str, float]] = {}
    for strategy in STRATEGIES:
        for pool in POOLS:
            rows = [in_a_process(strategy, pool, str(size)) for size in sizes]
            at_100k[strategy, pool] = rows[sizes.index(100_000)]
            print(f'\n{strategy}, {pool}\n{"candidates":>10} {"scale (s)":>10} {"pick (s)":>10} {"worst":>8} {"MB":>7}')
            for size, row in zip(sizes, rows, strict=True):
                cells = (f'{row["scaling"]:>10.3f}', f'{row["seconds"]:>10.3f}', f'{row["worst"]:>8.3f}')
                print(f'{size:>10} {" ".join(cells)} {row["memory"]:>7.0f}')
            slope = exponent(sizes, [row['seconds'] for row in rows])
            print(f'exponents: time {slope:.2f}, memory {exponent(sizes, [row["memory"] for row in rows]):.2f}')
    print(f'\na whole decision\n{"candidates":>10} {"(s)":>10} {"MB":>7}')
    decisions = [in_a_process('decision', str(size)) for size in sizes[:3]]
    for size, row in zip(sizes, decisions, strict=False):
        print(f'{size:>10} {row["seconds"]:>10.3f} {row["memory"]:>7.0f}')
    print(f'exponent: time {exponent(sizes[:3], [row["seconds"] for row in decisions]):.2f}\n')
    for name, strategy in (('fps', 'farthest_point'), ('maxdet', 'max_det')):
        worst = max(at_100k[strategy, pool]['seconds'] for pool in POOLS)
        print(f'RESULT {name}_100k_seconds {worst:.3f} s')
    print(f'RESULT peak_memory_100k_mb {max(row["memory"] for row in at_100k.values()):.0f} MB')
    print(f'RESULT decision_100k_seconds {decisions[2]["seconds"]:.1f} s')


def _blas() -> list[dict[str, Any]]:
    return [item for item in threadpool_info() if 'architecture' in item]


if __name__ == '__main__':
    main()
