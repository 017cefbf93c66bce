"""How much faster NVIDIA's cuEquivariance makes MACE on a GPU, and whether it computes the same.

    python benchmarks/gpu_kernels.py      # needs `cuequivariance-torch` and `cuequivariance-ops-torch-cu13` (or -cu12)

Models of silicon with random weights, of a few widths, single precision: energies and forces of batches of 8 and of 128
cells of 32 atoms, plain and with the kernels, in turns; medians. Then a short training with `enable_cueq` and without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import numpy as np
from _jobs import finished, new_folder, start
from _parts import run_parts
from exploration_throughput import random_model, silicon
from training_overhead import dataset

from aiida_mlipal.science.configurations import Configurations


def seconds(model: Any, graph: dict[str, Any]) -> float:
    """Return the wall time of energies and forces of a batch."""
    begin = time.perf_counter()
    float(model({**graph}, compute_force=True)['forces'].sum())  # waits for the GPU
    return time.perf_counter() - begin


def inference(device: str, channels: int, max_l: int, n_cells: list[int]) -> None:
    """Compare and time one width."""
    from aiida_mlipal.runners.committee import graphs
    from aiida_mlipal.runners.cueq import accelerate

    name = f'{channels}_channels_L{max_l}'
    for dtype in ('float64', 'float32'):
        plain = random_model(channels, device, max_l)
        plain = plain.double() if dtype == 'float64' else plain
        plain.scale_shift.scale *= 100  # forces of the usual size
        for parameter in plain.parameters():
            parameter.requires_grad_(False)
        (fast,), found = accelerate([plain], [silicon(32, seed) for seed in range(3)])
        print(f'{name} {dtype}: {found}', flush=True)
        print(f'RESULT gpu_cueq_force_difference_{name}_{dtype} {found.get("force_difference", np.nan):.2g} eV/Å')
    if not found['enabled']:
        return
    for count in n_cells:
        frames = Configurations.from_atoms([silicon(32, seed) for seed in range(count)])
        graph = graphs(
            [frames.numbers[:32]] * count, list(frames.positions.reshape(count, 32, 3)), frames.cell, frames.pbc, plain
        )
        walls: dict[str, list[float]] = {'plain': [], 'fast': []}
        for repeat in range(13):
            for key, model in (('plain', plain), ('fast', fast)):
                wall = seconds(model, graph)
                if repeat >= 3:
                    walls[key].append(wall)
        ratios = [a / b for a, b in zip(walls['plain'], walls['fast'], strict=True)]
        milliseconds = {key: f'{1e3 * statistics.median(values):.1f} ms' for key, values in walls.items()}
        print(f'{name}, {32 * count} atoms: {milliseconds}, {min(ratios):.2f} to {max(ratios):.2f} times faster')
        print(f'RESULT gpu_cueq_ratio_{name}_{32 * count}_atoms {statistics.median(ratios):.2f} 1', flush=True)


def training(device: str) -> None:
    """Two jobs, one after the other."""
    settings = {'seeds': [1], 'device': device, 'num_channels': 32, 'max_num_epochs': 20, 'batch_size': 8}
    for enabled in (False, True):
        folder = new_folder()
        job = start('train', folder, {**settings, 'enable_cueq': enabled}, {'dataset': dataset(40, 1)})
        member = finished(job, folder)['members']['member_00']
        print(
            f'training, enable_cueq {enabled}: {member["wall_s"]:.1f} s, {member["errors"]["valid"]}, '
            f'{member.get("cueq")}',
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='`cpu` to try the script')
    parser.add_argument('--quick', action='store_true', help='one narrow model, small batches')
    arguments = parser.parse_args()
    widths = ((4, 0),) if arguments.quick else ((16, 0), (128, 0), (128, 1))
    n_cells = [1, 2] if arguments.quick else [8, 128]
    parts = {
        f'{width} channels, L={order}': partial(inference, arguments.device, width, order, n_cells)
        for width, order in widths
    }
    run_parts({**parts, 'training': partial(training, arguments.device)})


if __name__ == '__main__':
    main()
