"""What happens when the memory of a GPU is full: really full, because another process holds the rest.

    python benchmarks/gpu_memory.py

A training is given more frames per step than there is room for, and half of them whenever its job says that memory ran
out, as the WorkChain does; it goes on from the checkpoints of an earlier job. A job finds no room at all. The probe for
the batch of an exploration, and an evaluation, in a process that may take no more than a share.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from _jobs import finish, finished, new_folder, start
from _parts import run_parts
from exploration_throughput import random_model, silicon
from training_overhead import dataset

from aiida_mlipal.science.configurations import Configurations

_HOLD: Final = """
import sys
import torch
torch.cuda.init()
free, total = torch.cuda.mem_get_info()
rest = torch.empty(max(free - int(sys.argv[1]), 1), dtype=torch.uint8, device='cuda')
print(f'held {len(rest) / 2**30:.1f} of {total / 2**30:.1f} GiB', flush=True)
sys.stdin.read()
"""


@contextmanager
def room(gib: float, device: str) -> Iterator[None]:
    """Leave so much of the GPU's memory free."""
    if device == 'cpu':
        yield
        return
    command = [sys.executable, '-c', _HOLD, str(int(gib * 2**30))]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        print(f'room for {gib} GiB: {holder.stdout.readline().strip()}', flush=True)
        yield
    finally:
        holder.stdin.close()
        holder.wait(60)


def training(device: str, quick: bool) -> None:
    """A training that has to halve its batch, once or more."""
    folder = new_folder()
    frames = {'dataset': dataset(16 if quick else 288, 1)}
    settings = {
        'seeds': [1], 'max_parallel': 1, 'device': device, 'num_channels': 8 if quick else 64, 'batch_size': 8,
        'max_num_epochs': 1, 'valid_fraction': 0.1,
    }  # fmt: skip
    finished(start('train', folder, settings, frames), folder)
    settings |= {'max_num_epochs': 3, 'batch_size': 8 if quick else 256, 'valid_batch_size': 8}
    n_halved = 0
    with room(5.0, device):
        while True:
            begin = time.monotonic()
            result = finish(start('train', folder, settings), folder)
            member = result.get('members', {}).get('member_00', result)
            print(
                f'batch of {settings["batch_size"]}, {time.monotonic() - begin:.0f} s: {member["status"]}, '
                f'{member.get("kind")}, continued from {member.get("continued_from")}: '
                f'{member.get("reason", member.get("error", ""))[-300:]}',
                flush=True,
            )
            if member['status'] == 'ok' or member.get('kind') != 'out_of_memory' or settings['batch_size'] == 1:
                break
            settings['batch_size'] //= 2
            n_halved += 1
    print(f'RESULT gpu_memory_training_{member["status"]} {n_halved} halvings')


def no_room(device: str, quick: bool) -> None:
    """A job for which there is not even room to begin."""
    with room(0.2, device):
        folder = new_folder()
        result = finish(start('doctor', folder, {'device': device}), folder)
    print(f'no room: {result["status"]}, {result.get("kind")}: {result.get("error", "")[:300]}', flush=True)
    print(f'RESULT gpu_memory_no_room_is_told {int(result.get("kind") == "out_of_memory")} 1')


def exploration(device: str, quick: bool) -> None:
    """Probe, dynamics and evaluation."""
    import torch

    from aiida_mlipal.runners.committee import evaluate
    from aiida_mlipal.runners.forces import MaceForces
    from aiida_mlipal.runners.main import error_kind
    from aiida_mlipal.runners.motion.packing import paying_atoms
    from aiida_mlipal.runners.motion.propagate import propagate
    from aiida_mlipal.runners.plans.dynamics import mover
    from aiida_mlipal.runners.trajectory import replicas_at
    from aiida_mlipal.science.exploration_settings import ExplorationSettings

    if device == 'cuda':
        torch.cuda.set_per_process_memory_fraction(1.5 * 2**30 / torch.cuda.mem_get_info()[1])
    model = random_model(8 if quick else 64, device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    n_replicas = 4 if quick else 512
    settings = ExplorationSettings(
        seed=1, temperatures=(300.0,), n_replicas_per_temperature=n_replicas, n_steps=10, device=device
    )
    (plan,) = settings.read_plans()
    starts = Configurations.from_atoms([silicon(64, seed) for seed in range(4)])
    replicas = replicas_at(starts, 0, [300.0] * n_replicas)
    move = mover(plan, MaceForces([model]), settings)
    n_atoms = paying_atoms(replicas, move)
    print(f'RESULT gpu_memory_probe_takes {n_atoms} of {64 * n_replicas} atoms', flush=True)
    done = propagate(replicas[:64], move, plan, settings, max_atoms=n_atoms)
    print(f'RESULT gpu_memory_replicas_that_came_to_their_end {sum(not item.reason for item in done)} of {len(done)}')
    frames = starts.take([row % 4 for row in range(8 if quick else 400)])
    batch = 64 * len(frames)
    while True:
        try:
            evaluate(frames, [model], batch_atoms=batch)
            break
        except RuntimeError as exception:
            print(f'{batch} atoms: {type(exception).__name__}, {error_kind(exception)}: {str(exception)[-200:]}')
            if error_kind(exception) != 'out_of_memory':
                raise
        batch //= 2
    print(f'RESULT gpu_memory_evaluation_takes {batch} of {64 * len(frames)} atoms', flush=True)


def main() -> None:
    """Check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='`cpu` to try the script')
    parser.add_argument('--quick', action='store_true', help='small, for which there is room')
    arguments = parser.parse_args()
    parts = (exploration, training, no_room)
    run_parts({part.__name__: partial(part, arguments.device, arguments.quick) for part in parts})


if __name__ == '__main__':
    main()
