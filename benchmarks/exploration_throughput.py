"""How many atoms an exploration moves per second, against ASE's own loop with the same model in the same run.

    python benchmarks/exploration_throughput.py --quick          # less than five minutes on two cores
    python benchmarks/exploration_throughput.py --model member_00.model
    python benchmarks/exploration_throughput.py --device cuda    # cells of 16 and 32 atoms as well, more replicas

Silicon at 300 K, Langevin dynamics, single precision, nothing compiled, nothing written. ASE runs one replica with
`MACECalculator`, both are warm. The engine runs all replicas of a case with as many atoms per batch as its probe
chooses, keeps frames in memory and checks the bounds every ten steps, as in a campaign. Ratios are medians of pairs.
The model is a MACE with random weights and `--channels` channels: what it predicts does not matter here.
`share_in_model` is the part of the engine's time that passes inside the model, the smallest of all cases.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _scratch_profile import machine
from ase import Atoms, units
from ase.build import bulk

#: Repetitions of the cubic cell of eight atoms, by number of atoms.
CELLS = {8: (1, 1, 1), 16: (2, 1, 1), 32: (2, 2, 1), 64: (2, 2, 2), 512: (4, 4, 4)}

#: Of a run: weak random forces hold no crystal together, and atoms that meet would end a replica.
MAX_STEPS = 100


def silicon(n_atoms: int, seed: int) -> Atoms:
    """Return a rattled cell."""
    atoms = bulk('Si', cubic=True) * CELLS[n_atoms]
    atoms.rattle(0.02, seed=seed)
    return atoms


def random_model(channels: int, device: str, max_l: int = 0) -> Any:
    """Return a MACE model of silicon with weak random forces; messages go up to order ``max_l``."""
    import mace  # noqa: F401  (before e3nn)
    import torch
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, gate_dict, interaction_classes

    torch.manual_seed(0)
    interaction = interaction_classes['RealAgnosticResidualInteractionBlock']
    model = ScaleShiftMACE(
        atomic_inter_scale=0.01,
        atomic_inter_shift=0.0,
        r_max=4.5,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=1,
        hidden_irreps=o3.Irreps(' + '.join(f'{channels}x{order}{"eo"[order % 2]}' for order in range(max_l + 1))),
        MLP_irreps=o3.Irreps('16x0e'),
        atomic_energies=np.zeros(1),
        avg_num_neighbors=16.0,
        atomic_numbers=[14],
        correlation=3,
        gate=gate_dict['silu'],
    )
    return model.to(device=device, dtype=torch.float32).eval()


class Timed:
    """Adds up the time that passes inside a model."""

    def __init__(self, model: Any) -> None:
        self.seconds, self._model, self._forward = 0.0, model, model.forward

    def __enter__(self) -> Timed:
        def forward(*arguments: Any, **more: Any) -> Any:
            _wait(self._model)
            begin = time.perf_counter()
            output = self._forward(*arguments, **more)
            _wait(self._model)
            self.seconds += time.perf_counter() - begin
            return output

        self._model.forward = forward
        return self

    def __exit__(self, *_: object) -> None:
        self._model.forward = self._forward


def _wait(model: Any) -> None:
    import torch

    if next(model.parameters()).device.type == 'cuda':
        torch.cuda.synchronize()


def ase_rate(model: Any, n_atoms: int, device: str) -> Callable[[int], float]:
    """Return what measures the atom-steps per second of ASE's loop over some steps; it is warm."""
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from mace.calculators import MACECalculator

    atoms = silicon(n_atoms, 0)
    atoms.calc = MACECalculator(models=[model], device=device, default_dtype='float32')
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
    dynamics = Langevin(atoms, 1.0 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=rng)
    dynamics.run(3)

    def measure(n_steps: int) -> float:
        begin = time.perf_counter()
        dynamics.run(n_steps)
        return n_atoms * n_steps / (time.perf_counter() - begin)

    return measure


def engine(model: Any, n_atoms: int, n_replicas: int, device: str) -> tuple[Callable[[int], tuple[float, float]], int]:
    """Return what measures atom-steps per second and share of time in the model, and the atoms per batch."""
    from aiida_mlipal.runners.forces import MaceForces
    from aiida_mlipal.runners.motion.packing import paying_atoms
    from aiida_mlipal.runners.motion.propagate import propagate
    from aiida_mlipal.runners.plans.dynamics import mover
    from aiida_mlipal.runners.trajectory import replicas_at
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.science.exploration_settings import ExplorationSettings

    starts = Configurations.from_atoms([silicon(n_atoms, seed) for seed in range(min(n_replicas, 16))])
    replicas = replicas_at(starts, 0, [300.0] * n_replicas)

    def plan(n_steps: int) -> Any:
        settings = ExplorationSettings(
            seed=1, temperatures=(300.0,), n_replicas_per_temperature=n_replicas, n_steps=n_steps, device=device
        )
        return settings, settings.read_plans()[0]

    settings, dynamics = plan(10)
    atoms = paying_atoms(replicas, mover(dynamics, MaceForces([model]), settings))

    def measure(n_steps: int) -> tuple[float, float]:
        settings, dynamics = plan(n_steps)
        move = mover(dynamics, MaceForces([model]), settings)
        with Timed(model) as timed:
            begin = time.perf_counter()
            done = propagate(replicas, move, dynamics, settings, max_atoms=atoms)
            seconds = time.perf_counter() - begin
        stopped = [trajectory.reason for trajectory in done if trajectory.reason]
        if stopped:
            sys.exit(f'replicas stopped: {stopped[:3]}')
        return n_atoms * n_replicas * n_steps / seconds, timed.seconds / seconds

    return measure, atoms


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of MACE and torch."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--model', type=Path, help='a MACE model that knows silicon; by default one of random weights')
    parser.add_argument('--channels', type=int, default=16, help='of the model with random weights')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--pairs', type=int, default=5, help='of ASE and the engine, for each case')
    parser.add_argument('--seconds', type=float, default=4.0, help='about how long either runs in a pair')
    parser.add_argument('--quick', action='store_true', help='fewer cases, shorter')
    arguments = parser.parse_args()

    import torch

    from aiida_mlipal.runners.committee import load_models

    torch.set_num_threads(arguments.threads)
    on_gpu = arguments.device.startswith('cuda')
    if on_gpu and not torch.cuda.is_available():
        sys.exit('torch sees no CUDA device: leave `--device cuda` out.')
    sizes = (16, 32, 64, 512) if on_gpu else (8, 64, 512)
    counts: tuple[int, ...] = (1, 32, 128, 512) if on_gpu else (1, 8, 32, 128)
    if arguments.quick:
        counts, arguments.seconds, arguments.pairs = counts[:3], min(arguments.seconds, 1.5), 3
    with quietly():
        if arguments.model is None:
            model = random_model(arguments.channels, arguments.device)
        else:
            (model,) = load_models([arguments.model], device=arguments.device, dtype='float32')
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        speedups: dict[tuple[int, int], float] = {}
        shares: dict[tuple[int, int], float] = {}
        for n_atoms in sizes:
            run_ase = ase_rate(model, n_atoms, arguments.device)
            ase_steps = max(5, int(arguments.seconds * run_ase(5) / n_atoms))
            for n_replicas in counts:
                if arguments.quick and n_atoms * n_replicas > 4096:
                    continue
                run_engine, batch = engine(model, n_atoms, n_replicas, arguments.device)
                rate, _ = run_engine(10)
                steps = 10 * min(MAX_STEPS // 10, max(1, round(arguments.seconds * rate / (n_atoms * n_replicas * 10))))
                pairs = []
                for pair in range(arguments.pairs):
                    if pair % 2:
                        (ours, share), theirs = run_engine(steps), run_ase(ase_steps)
                    else:
                        theirs, (ours, share) = run_ase(ase_steps), run_engine(steps)
                    pairs.append((ours / theirs, share, ours, theirs))
                ratios, found, rates, ase_rates = zip(*pairs, strict=True)
                key = n_atoms, n_replicas
                speedups[key], shares[key] = statistics.median(ratios), statistics.median(found)
                print(
                    f'{n_atoms:4d} atoms, {n_replicas:3d} replicas, {batch:5d} atoms per batch: '
                    f'{statistics.median(rates):9.0f} atom-steps/s, ASE {statistics.median(ase_rates):8.0f}: '
                    f'{min(ratios):.2f} to {max(ratios):.2f}, {shares[key]:.1%} in the model',
                    flush=True,
                )
    print(machine())
    print(f'torch {torch.__version__}, {arguments.threads} threads, {arguments.pairs} pairs, {model_name(arguments)}')
    smallest = min(sizes)
    small = max(value for (n_atoms, _), value in speedups.items() if n_atoms == smallest)
    print(f'RESULT speedup_small_cells {small:.2f} 1')
    if on_gpu:
        medium = [value for (n_atoms, count), value in speedups.items() if n_atoms in (16, 32) and count >= 128]
        print(f'RESULT speedup_16_to_32_atoms {min(medium):.1f} 1')
    print(f'RESULT speedup_worst {min(speedups.values()):.2f} 1')
    print(f'RESULT share_in_model {min(shares.values()):.3f} 1')


def model_name(arguments: argparse.Namespace) -> str:
    """Return which model was measured."""
    return arguments.model.name if arguments.model else f'{arguments.channels} channels, random weights'


if __name__ == '__main__':
    main()
