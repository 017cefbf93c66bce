"""How far each plan of an exploration gets out of what the model knows, against plain dynamics of the same cost.

    python benchmarks/exploration_reach.py            # 3 seeds
    python benchmarks/exploration_reach.py --quick    # one seed, shorter

For each seed a committee of two is trained on rattled diamond-structure silicon and nothing else, labelled by a cheap
teacher: the potential of Stillinger and Weber, Phys. Rev. B 31, 5262 (1985), of matscipy. Then every plan explores from
the same starts. The true error of a visited frame is the root mean square difference, over its atoms and directions, of
the forces of committee and teacher. What a plan reached is the error that a tenth of the frames of its pool
pass (in brackets: the largest of any): visited frames, one per correlation time of each trajectory.

Cost: atoms that went through any member, those of the evaluation of the saved frames included, counted by a hook in the
models. The steps of each plan are chosen so that it costs no more than plain dynamics at 300 K; the table says what it
did cost. Frames out of the bounds of an exploration are not in it, but the first one of a replica that was ended is: it
is a candidate too. `highest` is the largest energy above the crystal by the teacher, in eV per atom: an error is
worth something only on frames that matter.

Kinds of plans without an example in `EXAMPLES` are named at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _scratch_profile import machine
from training_uncertainty import train

PLAIN = 'plain 300 K'
N_MEMBERS = 2
STRIDE = 10

#: Plans to compare, and the steps of each in units of those of plain dynamics: two members cost twice as much as one,
#: and the uncertainty bias looks once more per stride; a latent coordinate needs a second pass through the model.
EXAMPLES: dict[str, tuple[float, dict[str, Any]]] = {
    PLAIN: (1.0, {'kind': 'dynamics'}),
    'uncertainty, linear': (0.45, {'kind': 'uncertainty_bias', 'strength': 0.5, 'max_strength': 0.9}),
    'uncertainty, saturating': (
        0.45,
        {'kind': 'uncertainty_bias', 'form': 'saturating', 'scale': 0.005, 'strength': 0.5, 'max_strength': 0.9},
    ),
    'metadynamics, coordination': (
        1.0,
        {
            'kind': 'metadynamics',
            'height': 0.2,
            'bias_factor': 100.0,
            'variables': [{'type': 'coordination', 'radius': 2.8, 'width': 0.1, 'centres': [0]}],
        },
    ),
    'metadynamics, latent': (
        0.5,
        {'kind': 'metadynamics', 'height': 0.2, 'bias_factor': 100.0, 'variables': [{'type': 'latent'}]},
    ),
    'replica exchange': (
        1.0,
        {
            'kind': 'replica_exchange',
            'temperatures': [300.0, 600.0, 1100.0, 2000.0],
            'n_replicas_per_temperature': 1,
        },
    ),
    # What these cost follows from their own keys, not from the steps.
    'random search': (1.0, {'kind': 'random_search', 'n_structures': 8, 'max_steps': 60, 'save_every': 10}),
    'normal modes': (1.0, {'kind': 'normal_modes', 'temperatures': [1500.0], 'n_frames': 10}),
    'adversarial': (1.0, {'kind': 'adversarial', 'n_attacks': 4, 'n_moves': 40, 'save_every': 10}),
    'basin hopping': (
        1.0,
        {'kind': 'basin_hopping', 'n_walkers': 4, 'n_hops': 6, 'displacement': 0.6, 'max_steps': 30},
    ),
    'bands': (1.0, {'kind': 'neb', 'max_steps': 100}),
}


@dataclass(frozen=True)
class Reached:
    """What one plan reached with one seed."""

    error: float  #: eV/Å, passed by a tenth of the frames
    largest: float  #: eV/Å
    highest: float  #: eV/atom
    cost: int  #: atoms through a model


def teacher() -> Any:
    """Return the teacher."""
    from matscipy.calculators.manybody import Manybody
    from matscipy.calculators.manybody.explicit_forms import StillingerWeber
    from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


def crystal(seed: int, rattle: float) -> Any:
    """Return eight atoms of diamond-structure silicon, rattled."""
    from ase.build import bulk

    atoms = bulk('Si', 'diamond', a=5.431, cubic=True)
    atoms.rattle(rattle, seed=seed)
    return atoms


def training_set(seed: int, n_frames: int) -> Any:
    """Return labelled rattled frames."""
    from ase.calculators.singlepoint import SinglePointCalculator

    from aiida_mlipal.science.configurations import Configurations

    rng = np.random.default_rng(seed)
    frames, label = [], teacher()
    for _ in range(n_frames):
        atoms = crystal(int(rng.integers(2**31)), rng.uniform(0.02, 0.12))
        atoms.calc = label
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return Configurations.from_atoms(frames, labels=True, role='train')


def committee(seed: int, options: argparse.Namespace, root: Path) -> list[Any]:
    """Train the members with the job's own program, and load them."""
    from aiida_mlipal.runners.committee import load_models

    frames = training_set(seed, options.frames)
    shared = {
        'e0s': 'least_squares', 'max_num_epochs': options.epochs, 'batch_size': 4, 'uncertainty': 'none',
        'num_channels': 8, 'max_L': 0, 'r_max': 4.5, 'stress_weight': 0.0,
    }  # fmt: skip
    folders = [root / f'seed_{seed}_{member}' for member in range(N_MEMBERS)]
    for member, folder in enumerate(folders):
        train(folder, frames, {**shared, 'seeds': [seed * N_MEMBERS + member]})
    return load_models([folder / 'member_00.model' for folder in folders], device='cpu', dtype='float32')


def starts_of(kind: str, seed: int) -> list[Any]:
    """Return what a plan begins at: two crystals, for a band a vacancy and the same on the next site."""
    if kind != 'neb':
        return [crystal(seed + number, 0.02) for number in range(2)]
    sites = crystal(seed, 0.0)
    here, there = sites.copy(), sites.copy()
    there.positions[1] = sites.positions[0]
    for atoms in (here, there):
        del atoms[0]
    return [here, there]


def reach(plan: dict[str, Any], models: list[Any], seed: int, n_steps: int, n_replicas: int) -> Reached:
    """Explore by one plan."""
    from aiida_mlipal.runners.explore import explore
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.science.exploration_settings import ExplorationSettings

    starts = Configurations.from_atoms(starts_of(plan['kind'], seed))
    settings = ExplorationSettings(
        seed=seed, temperatures=[300.0], n_replicas_per_temperature=n_replicas, n_steps=n_steps, stride=STRIDE,
        plans=[plan], n_stream=0, max_candidates=100_000, batch_atoms=1000, max_force=30.0,
    )  # fmt: skip
    cost = 0

    def count(_: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal cost
        cost += len(arguments[0]['positions'])

    handles = [model.register_forward_pre_hook(count) for model in models]
    try:
        pool, evaluation, _ = explore(starts, models, settings)
    finally:
        for handle in handles:
            handle.remove()
    label, errors, energies = teacher(), [], []
    for row in range(len(pool)):
        atoms = pool.atoms(row)
        atoms.calc = label
        own = evaluation.forces[evaluation.offsets[row] : evaluation.offsets[row + 1]]
        errors.append(float(np.sqrt(np.mean((own - atoms.get_forces()) ** 2))))
        energies.append(atoms.get_potential_energy() / len(atoms))
    ground = crystal(0, 0.0)
    ground.calc = label
    return Reached(
        error=float(np.quantile(errors, 0.9)),
        largest=max(errors),
        highest=float(max(energies) - ground.get_potential_energy() / len(ground)),
        cost=cost,
    )


def measure(seed: int, options: argparse.Namespace) -> dict[str, Reached]:
    """Train with one seed, and return what each plan reached."""
    import torch

    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as root:
        models = committee(seed, options, Path(root))
        for name, (share, plan) in EXAMPLES.items():
            n_steps = int(options.steps * share) // STRIDE * STRIDE
            found[name] = reach(plan, models, seed, n_steps, options.replicas)
            print(f'seed {seed}, {name}: {found[name]}', flush=True)
    return found


def main() -> None:
    """Measure and print."""
    from aiida_mlipal.science.plan_kinds import PLANS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=32, help='to train and validate with')
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--steps', type=int, default=600, help='of plain dynamics')
    parser.add_argument('--replicas', type=int, default=4)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--jobs', type=int, default=2, help='seeds at a time, one core each')
    parser.add_argument('--quick', action='store_true', help='the first seed, 20 epochs, 300 steps')
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs, options.steps = options.seeds[:1], 20, 300

    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context('spawn')) as pool:
        runs = list(pool.map(measure, options.seeds, [options] * len(options.seeds)))
    found = {name: [run[name] for run in runs] for name in EXAMPLES}
    print(machine())
    print(f'seeds: {options.seeds}; error in eV/Å (largest), energy in eV/atom, cost in units of the plain one')
    ratios = {}
    for name, runs in found.items():
        ratio = [run.error / plain.error for run, plain in zip(runs, found[PLAIN], strict=True)]
        ratios[name] = ratio
        cost = max(run.cost / plain.cost for run, plain in zip(runs, found[PLAIN], strict=True))
        cells = [f'{run.error:.3f} ({run.largest:.3f})' for run in runs]
        highest = max(run.highest for run in runs)
        print(f'| {name} | {" | ".join(cells)} | {statistics.median(ratio):.2f} | {highest:.2f} | {cost:.2f} |')
    for name, ratio in ratios.items():
        if name != PLAIN:
            label = name.replace(',', '').replace(' ', '_')
            print(f'RESULT reach_{label} {statistics.median(ratio):.3f} 1')
    worst = min(min(ratio) for name, ratio in ratios.items() if name != PLAIN)
    print(f'RESULT reach_worst {worst:.3f} 1')
    left = sorted(set(PLANS) - {plan['kind'] for _, plan in EXAMPLES.values()})
    if left:
        print(f'no example here: {", ".join(left)}')


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    sys.exit(main())
