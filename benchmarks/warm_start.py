"""What a campaign's trainings cost if models go on from those of the iteration before, against always from scratch.

    python benchmarks/warm_start.py            # an hour on one core
    python benchmarks/warm_start.py --quick    # one seed, short trainings: ten minutes

A campaign of five iterations whose labels are known: copper with aluminium, cells of 4 atoms, labelled with EMT. It
begins with small strains and displacements, and each iteration brings frames that are farther from the crystal, as
dynamics at rising temperatures would. Six trainings follow each other, one per iteration and one at the end on
everything, as in a campaign, with its own functions: the first and the last from scratch, those between once from
scratch and once from the model before. MACE is real, on one core; what is measured are the CPU seconds of the process
that trains, and its wall time. (A job takes some seconds more to start, whatever it trains.) Test frames are drawn from
all displacements that occur.

The ratio is the time with warm starts over the time without, over all six trainings. The last training is the same both
ways, so the final error is equal; the errors before it show what the short trainings are worth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _scratch_profile import machine
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.splits import record_roles
from aiida_mlipal.science.warm_start import (
    COPIES,
    START,
    WarmStartSettings,
    choose_copies,
    save_copies,
    warm_settings,
)

N_TRAININGS = 6
#: Standard deviations of displacements (Å) and strains in the frames that each training brings.
DISPLACEMENTS = (0.04, 0.06, 0.08, 0.10, 0.12, 0.14)
STRAINS = (0.01, 0.02, 0.02, 0.03, 0.03, 0.04)


def label(frames: list[Atoms], role: str = 'train') -> Configurations:
    """Return ``frames`` with EMT's labels."""
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.get_stress()
    return Configurations.from_atoms(frames, labels=True, role=role)


def frames_of(iteration: int, n_frames: int, rng: np.random.Generator) -> list[Atoms]:
    """Return cells with displacements, strains and compositions that occur in an iteration."""
    frames = []
    for _ in range(n_frames):
        atoms = bulk('Cu', cubic=True, a=3.75)
        atoms.numbers[rng.random(len(atoms)) < 0.5] = 13
        strain = rng.normal(scale=STRAINS[iteration], size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(scale=DISPLACEMENTS[iteration], size=atoms.positions.shape)
        frames.append(atoms)
    return frames


def datasets(n_frames: int, seed: int) -> tuple[list[Configurations], Configurations]:
    """Return the datasets of the trainings, each with what the one before has, and test frames."""
    rng = np.random.default_rng(seed)
    grown = label([Atoms(symbol, cell=[12.0, 12.2, 12.4], pbc=True) for symbol in ('Cu', 'Al')], 'isolated_atom')
    result = []
    for iteration in range(N_TRAININGS):
        grown = Configurations.concatenate([grown, label(frames_of(iteration, n_frames, rng))])
        new = np.arange(len(grown)) >= len(grown) - n_frames
        grown = record_roles(grown, new=new, withheld=np.zeros_like(new), fraction=0.2, seed=seed)
        result.append(grown)
    test = [frames_of(iteration, 10, rng) for iteration in range(N_TRAININGS)]
    return result, label([atoms for part in test for atoms in part])


@dataclass(frozen=True)
class Training:
    """What one training took, and how good its model is: s, eV/Å, eV per atom."""

    cpu: float
    wall: float
    force_rmse: float
    energy_rmse: float


class Chain:
    """Trainings that follow each other, with the models they leave."""

    def __init__(self, folder: Path, test: Configurations) -> None:
        self.folder = folder
        self.test = test
        self.model: Path | None = None
        self.known: set[str] = set()

    def train(
        self, frames: Configurations, settings: dict[str, Any], name: str, copies: np.ndarray | None = None
    ) -> Training:
        """Run the program of a training; with ``copies`` from the last model."""
        folder = self.folder / name
        folder.mkdir()
        frames.save(folder / 'dataset.npz')
        if copies is not None and self.model is not None:
            shutil.copyfile(self.model, folder / f'{START}{settings["seeds"][0]}.model')
            learning = frames.take(frames.has_role('train'))
            save_copies(learning.frame_id, copies, folder / COPIES)
        start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = multiprocessing.get_context('fork').Process(target=run, args=(settings, folder))
        process.start()
        process.join()
        wall, after = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        (member,) = json.loads((folder / 'result.json').read_text(encoding='utf-8'))['members'].values()
        if member['status'] != 'ok':
            sys.exit(f'a training failed: {member}')
        self.model = folder / 'member_00.model'
        self.known = set(frames.frame_id.tolist())
        forces, energies = errors(self.model, self.test)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Training(cpu, wall, float(np.sqrt((forces**2).mean())), float(np.sqrt((energies**2).mean())))

    def go_on(self, frames: Configurations, training: dict[str, Any], warm: WarmStartSettings, name: str) -> Training:
        """Train from the last model, as a campaign does."""
        assert self.model is not None
        learning = frames.take(frames.has_role('train'))
        forces, _ = errors(self.model, learning)
        error = np.sqrt(np.add.reduceat((forces**2).mean(axis=1), learning.offsets[:-1]) / learning.n_atoms)
        new = ~np.isin(learning.frame_id, sorted(self.known))
        copies = choose_copies(learning.frame_id, error, new, warm, seed=training['seeds'][0])
        return self.train(frames, warm_settings(training, warm, training['seeds']), name, copies)


def run(settings: dict[str, Any], folder: Path) -> None:
    """Run the runner of a training in a process of its own: MACE changes global state."""
    from aiida_mlipal.runners.main import write_json
    from aiida_mlipal.runners.train import run as train

    os.chdir(folder)
    with (folder / 'log').open('w') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        write_json(folder / 'result.json', train(settings, folder))


def errors(model: Path, frames: Configurations) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of the forces (A, 3) and of the energies per atom (F,)."""
    from aiida_mlipal.runners.committee import evaluate, load_models

    found = evaluate(frames, load_models([model], device='cpu', dtype='float32'), batch_atoms=256)
    return found.forces - frames.forces, (found.energy - frames.energy) / frames.n_atoms


def main() -> None:
    """Measure and print."""
    import mace.cli.run_train  # noqa: F401 - once, for all processes
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--frames', type=int, default=40, help='that each iteration brings')
    parser.add_argument('--epochs', type=int, default=100, help='of a training from scratch')
    parser.add_argument('--settings', type=json.loads, default={}, help='further settings of the training, JSON')
    parser.add_argument('--warm', type=json.loads, nargs='+', default=[{}], help='settings of warm starts, JSON')
    parser.add_argument('--quick', action='store_true', help='one seed, 16 frames per iteration, 60 epochs')
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.frames, arguments.epochs = arguments.seeds[:1], 16, 60
    torch.set_num_threads(1)
    ways = [from_dict(WarmStartSettings, {'every': N_TRAININGS - 1, **given}) for given in arguments.warm]
    ratios: dict[tuple[int, str], list[float]] = {}
    for seed in arguments.seeds:
        sets, test = datasets(arguments.frames, seed)
        base = {'max_parallel': 1, 'r_max': 4.0, 'max_num_epochs': arguments.epochs}
        settings = {**base, **arguments.settings, 'seeds': [seed]}
        with tempfile.TemporaryDirectory() as folder:
            scratch = Chain(Path(folder), test)
            whole, models = [], []
            for index, frames in enumerate(sets):
                whole.append(scratch.train(frames, settings, f'scratch_{index}'))
                models.append((scratch.model, scratch.known))
                print(f'seed {seed}, {len(frames)} frames, from scratch: {asdict(whole[-1])}', flush=True)
            for number, warm in enumerate(ways):
                chain = Chain(Path(folder), test)
                chain.model, chain.known = models[0]
                short = [
                    whole[index]  # the first and the last are the same training
                    if not warm.applies(index) or index == N_TRAININGS - 1
                    else chain.go_on(sets[index], settings, warm, f'warm_{number}_{index}')
                    for index in range(N_TRAININGS)
                ]
                print(f'seed {seed}, {warm}', flush=True)
                for index in range(1, N_TRAININGS - 1):
                    print(f'    training {index}: {asdict(short[index])}', flush=True)
                for name in ('cpu', 'wall'):
                    total = [sum(getattr(item, name) for item in way) for way in (short, whole)]
                    ratios.setdefault((number, name), []).append(total[0] / total[1])
                for name in ('force_rmse', 'energy_rmse'):
                    values = [getattr(item, name) for way in (short, whole) for item in way[1:-1]]
                    half = len(values) // 2
                    gains = [new / old for new, old in zip(values[:half], values[half:], strict=True)]
                    ratios.setdefault((number, name), []).append(statistics.geometric_mean(gains))
                ratios.setdefault((number, 'final'), []).append(short[-1].force_rmse)
    print(machine())
    for (number, name), values in ratios.items():
        print(f'{ways[number]}, {name}: {", ".join(f"{value:.3f}" for value in values)}')
    for name, what in (('cpu', 'time_ratio'), ('wall', 'wall_ratio'), ('force_rmse', 'force_error_ratio')):
        print(f'RESULT warm_start_{what} {statistics.median(ratios[0, name]):.3f} 1')
    print(f'RESULT warm_start_energy_error_ratio {statistics.median(ratios[0, "energy_rmse"]):.3f} 1')
    print(f'RESULT warm_start_final_force_rmse {statistics.median(ratios[0, "final"]):.4f} eV/Å')


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    main()
