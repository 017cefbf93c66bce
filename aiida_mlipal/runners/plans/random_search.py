"""Plan ``random_search``: seeded random cells, relaxed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from aiida_mlipal.runners.committee import check_elements
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.relax import relax
from aiida_mlipal.runners.trajectory import Replica, Trajectory
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_random_search import RandomSearchPlan, random_cell

__all__ = ('random_replicas', 'run')


def random_replicas(
    plan: RandomSearchPlan, starts: Configurations, settings: ExplorationSettings, first: int
) -> list[Replica]:
    """Return the random cells, each drawn from a stream of its own; its own cell is the reference for k-points."""
    replicas = []
    for index in range(first, first + plan.n_structures):
        start = starts.atoms(index % len(starts))
        rng = np.random.default_rng([settings.seed, settings.iteration, index])
        atoms = random_cell(plan.numbers(start), plan.volumes(start), plan.separation, rng)
        replicas.append(
            Replica(
                index=index,
                start=index % len(starts),
                numbers=atoms.numbers,
                positions=atoms.positions,
                cell=atoms.cell.array,
                pbc=atoms.pbc,
                reference_cell=atoms.cell.array,
            )
        )
    return replicas


def run(
    plan: RandomSearchPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Relax random cells with the first member; ``found`` tells the energy per atom that each ended with."""
    replicas = random_replicas(plan, starts, settings, first)
    cells = [Atoms(numbers=replica.numbers, positions=replica.positions) for replica in replicas]
    check_elements(Configurations.from_atoms(cells), models[0], f'the random cells of plan `{plan.label}`')
    relaxed = relax(
        replicas,
        MaceForces(models[:1]),
        settings,
        converged_force=plan.converged_force,
        n_steps=plan.max_steps,
        stride=plan.save_every,
        cells=plan.relax_cells,
    )
    return [
        Trajectory(
            replica=one.replica,
            frames=one.frames,
            n_steps=one.n_steps,
            reason=one.reason,
            unsafe=one.unsafe,
            found={} if one.reason else {
                'energy_per_atom': one.energy / len(one.replica.numbers),
                'residual_force': one.residual,
                'converged': one.residual <= plan.converged_force,
            },
        )
        for one in relaxed
    ]  # fmt: skip
