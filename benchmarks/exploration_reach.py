"""How far each plan of an exploration gets out of what the model knows, against plain dynamics of the same cost.

    python benchmarks/exploration_reach.py            # 3 seeds
    python benchmarks/exploration_reach.py --quick    # one seed, shorter

For each seed a committee of two is trained on rattled diamond-structure silicon and nothing else, labelled by a cheap
teacher: the potential of Stillinger and Weber, Phys. Rev. B 31, 5262 (1985), of matscipy. Then every plan explores from
the same starts. The true error of a visited frame is the root mean square difference, over its atoms and directions, of
the forces of committee and teacher. What a plan reached is the error that a tenth of the frames of its pool pass:
visited frames, one per correlation time of each trajectory.

An error is worth something only on frames that matter. So the same is told of the frames that are less than 0.5 eV per
atom above the crystal by the teacher, about where its melt is at its melting point (3/2 kT at 1690 K and a heat of
fusion of 0.3 eV make 0.5 eV). `highest` is the largest energy of any.

Cost: atoms that went through any member, those of the evaluation of the saved frames included, counted by a hook in the
models. The steps of each plan are chosen so that it costs no more than plain dynamics at 300 K; the table says what it
did cost. Frames out of the bounds of an exploration are not in it, but the first one of a replica that was ended is: it
is a candidate too.

Bands need two ends, here a vacancy and the same on the next site. A vacancy is new to the model by itself, so what
bands reach is held against plain dynamics from these ends.

Kinds of plans without an example in `EXAMPLES`, or without what they need (PLUMED), are named at the end.
"""

from __future__ import annotations

import argparse
import contextlib
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

PLAIN, PLAIN_VACANCY = 'plain 300 K', 'plain 300 K from vacancies'
N_MEMBERS = 2
STRIDE = 10
#: eV/atom above the crystal
MELT = 0.5


@dataclass(frozen=True)
class Example:
    """A plan, and its steps in units of those of plain dynamics.

    Two members cost twice as much as one, and the uncertainty bias looks once more per stride; a latent coordinate
    needs a second pass through the model.
    """

    plan: dict[str, Any]
    share: float = 1.0
    baseline: str = PLAIN  #: plain dynamics from the same starts


_PULL = {'kind': 'uncertainty_bias', 'strength': 0.5, 'max_strength': 0.9}
_HILLS = {'kind': 'metadynamics', 'height': 0.2, 'bias_factor': 100.0}
_LADDER = [300.0, 600.0, 1100.0, 2000.0]

#: Plans to compare. What the last ones cost follows from their own keys, not from the steps.
EXAMPLES = {
    PLAIN: Example({'kind': 'dynamics'}),
    'uncertainty, linear': Example(_PULL, share=0.45),
    'uncertainty, saturating': Example({**_PULL, 'form': 'saturating', 'scale': 0.005}, share=0.45),
    'metadynamics, coordination': Example(
        {**_HILLS, 'variables': [{'type': 'coordination', 'radius': 2.8, 'width': 0.1, 'centres': [0]}]}
    ),
    'metadynamics, latent': Example({**_HILLS, 'variables': [{'type': 'latent'}]}, share=0.5),
    'PLUMED, coordination': Example(
        {
            'kind': 'plumed',
            'input': [
                'UNITS LENGTH=A ENERGY=eV',
                'c: COORDINATION GROUPA=1 GROUPB=2-8 R_0=2.8',
                f'METAD ARG=c SIGMA=0.1 HEIGHT=0.2 BIASFACTOR=100 PACE={STRIDE}',
            ],
        }
    ),
    'replica exchange': Example({'kind': 'replica_exchange', 'temperatures': _LADDER, 'n_replicas_per_temperature': 1}),
    'random search': Example({'kind': 'random_search', 'n_structures': 8, 'max_steps': 60, 'save_every': 10}),
    'normal modes': Example({'kind': 'normal_modes', 'temperatures': [1500.0], 'n_frames': 10}),
    'adversarial': Example({'kind': 'adversarial', 'n_attacks': 4, 'n_moves': 40, 'save_every': 10}),
    'basin hopping': Example(
        {'kind': 'basin_hopping', 'n_walkers': 4, 'n_hops': 6, 'displacement': 0.6, 'max_steps': 30}
    ),
    PLAIN_VACANCY: Example({'kind': 'dynamics'}, share=0.5, baseline=PLAIN_VACANCY),
    'bands': Example({'kind': 'neb', 'max_steps': 100}, baseline=PLAIN_VACANCY),
}


@dataclass(frozen=True)
class Reached:
    """What one plan reached with one seed."""

    error: float  #: eV/Å, passed by a tenth of the frames
    error_below: float  #: eV/Å, passed by a tenth of the frames below the melt; 0 if there are none
    share_below: float  #: of the frames, in energy below the melt
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


def starts_of(baseline: str, seed: int) -> list[Any]:
    """Return what plans begin at: two crystals, or a vacancy and the same on the next site."""
    if baseline == PLAIN:
        return [crystal(seed + number, 0.02) for number in range(2)]
    sites = crystal(seed, 0.0).repeat((2, 1, 1))
    here, there = sites.copy(), sites.copy()
    there.positions[1] = sites.positions[0]
    for atoms in (here, there):
        del atoms[0]
        atoms.rattle(0.02, seed=seed)
    return [here, there]


def reach(example: Example, models: list[Any], seed: int, options: argparse.Namespace) -> Reached:
    """Explore by one plan."""
    from aiida_mlipal.runners.explore import explore
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.science.exploration_settings import ExplorationSettings

    starts = Configurations.from_atoms(starts_of(example.baseline, seed))
    settings = ExplorationSettings(
        seed=seed, temperatures=[300.0], n_replicas_per_temperature=options.replicas, stride=STRIDE,
        n_steps=int(options.steps * example.share) // STRIDE * STRIDE, plans=[example.plan], n_stream=0,
        max_candidates=100_000, batch_atoms=1000, max_force=30.0,
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
    label = teacher()
    ground = crystal(0, 0.0)
    ground.calc = label
    lowest = ground.get_potential_energy() / len(ground)
    errors, energies = np.zeros(len(pool)), np.zeros(len(pool))
    for row in range(len(pool)):
        atoms = pool.atoms(row)
        atoms.calc = label
        own = evaluation.forces[evaluation.offsets[row] : evaluation.offsets[row + 1]]
        errors[row] = np.sqrt(np.mean((own - atoms.get_forces()) ** 2))
        energies[row] = atoms.get_potential_energy() / len(atoms) - lowest
    below = energies < MELT
    return Reached(
        error=float(np.quantile(errors, 0.9)),
        error_below=float(np.quantile(errors[below], 0.9)) if below.any() else 0.0,
        share_below=float(below.mean()),
        highest=float(energies.max()),
        cost=cost,
    )


def measure(seed: int, options: argparse.Namespace) -> dict[str, Reached]:
    """Train with one seed, and return what each plan reached."""
    import torch

    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):  # where PLUMED writes
        models = committee(seed, options, Path(root))
        for name, example in possible().items():
            found[name] = reach(example, models, seed, options)
            print(f'seed {seed}, {name}: {found[name]}', flush=True)
    return found


def possible() -> dict[str, Example]:
    """Return the examples that this machine can run."""
    from aiida_mlipal.runners.bias.plumed import check_kernel
    from aiida_mlipal.runners.main import SettingsRefused

    try:
        check_kernel()
    except SettingsRefused:
        return {name: example for name, example in EXAMPLES.items() if example.plan['kind'] != 'plumed'}
    return EXAMPLES


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
    found = {name: [run[name] for run in runs] for name in runs[0]}
    print(machine())
    print(
        f'| plan | error, eV/Å: seed {" | seed ".join(map(str, options.seeds))} | times plain '
        f'| error below {MELT:g} eV/atom: seed {" | seed ".join(map(str, options.seeds))} | times plain '
        '| frames below | highest, eV/atom | cost |'
    )
    ratios = {}
    for name, reached in found.items():
        plain = found[EXAMPLES[name].baseline]
        ratios[name] = [
            [getattr(own, key) / getattr(other, key) for own, other in zip(reached, plain, strict=True)]
            for key in ('error', 'error_below')
        ]
        cells = [
            ' | '.join(f'{getattr(one, key):.3f}' for one in reached) + f' | {statistics.median(ratio):.2f}'
            for key, ratio in zip(('error', 'error_below'), ratios[name], strict=True)
        ]
        share = statistics.mean(one.share_below for one in reached)
        cost = max(own.cost / other.cost for own, other in zip(reached, plain, strict=True))
        print(
            f'| {name} | {" | ".join(cells)} | {share:.0%} | {max(one.highest for one in reached):.2f} | {cost:.2f} |'
        )
    for column, suffix in enumerate(('', '_below_melt')):
        others = {name: ratio[column] for name, ratio in ratios.items() if EXAMPLES[name].baseline != name}
        for name, ratio in others.items():
            label = name.replace(',', '').replace(' ', '_')
            print(f'RESULT reach_{label}{suffix} {statistics.median(ratio):.3f} 1')
        print(f'RESULT reach_worst{suffix} {min(min(ratio) for ratio in others.values()):.3f} 1')
    left = sorted(set(PLANS) - {EXAMPLES[name].plan['kind'] for name in found})
    if left:
        print(f'no example here: {", ".join(left)}')


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    sys.exit(main())
