"""Plan ``basin_hopping``: walkers that hop at the same time, their trials relaxed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import units

from aiida_mlipal.runners.forces import Forces, MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.relax import Relaxation, relax
from aiida_mlipal.runners.trajectory import Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_basin_hopping import BasinHoppingPlan, propose

__all__ = ('hop', 'run')


class _Walker:
    """One walk over minima."""

    def __init__(self, plan: BasinHoppingPlan, trajectory: Trajectory, settings: ExplorationSettings) -> None:
        self.trajectory, self._plan, self._key = trajectory, plan, [settings.seed, settings.iteration]
        self._positions = trajectory.replica.positions
        self._energy = np.inf
        self._n_accepted = self._n_broken = 0
        self.rng = np.random.default_rng(self._key)

    def trial(self, hop: int) -> Any:
        """Return the replica to relax: the start at hop 0."""
        replica = self.trajectory.replica
        self.rng = np.random.default_rng([*self._key, replica.index, hop])
        if hop == 0:
            return replica
        return replace(replica, positions=propose(replica.numbers, self._positions, self._plan, self.rng))

    def take(self, relaxed: Relaxation, hop: int) -> None:
        """Keep what the trial became, and accept it or not.

        A trial that leaves the bounds is rejected and the walk goes on; if the start does, the walk ends.
        """
        trajectory = self.trajectory
        trajectory.n_steps += relaxed.n_steps
        if relaxed.reason:
            self._n_broken += 1
            if hop == 0:
                trajectory.reason = f'the start did not relax: {relaxed.reason}'
                trajectory.unsafe = relaxed.unsafe
            elif trajectory.unsafe is None and relaxed.unsafe is not None:
                trajectory.unsafe = replace(relaxed.unsafe, step=hop)
            return
        minimum = relaxed.frames[-1]
        trajectory.frames.append(replace(minimum, step=hop))
        rise = (relaxed.energy - self._energy) / (units.kB * self._plan.temperature)
        if self.rng.random() < np.exp(-max(rise, 0.0)):
            self._positions, self._energy = minimum.positions, relaxed.energy
            self._n_accepted += hop > 0
        lowest = min(relaxed.energy, trajectory.found.get('lowest_energy', np.inf))
        trajectory.found = {
            'lowest_energy': lowest, 'n_hops': hop, 'n_accepted': self._n_accepted, 'n_broken': self._n_broken
        }  # fmt: skip


def hop(
    plan: BasinHoppingPlan, starts: Configurations, forces: Forces, settings: ExplorationSettings, first: int
) -> list[Trajectory]:
    """Let all walkers hop. Frames are the minima of all trials, accepted or not; the step is the number of the hop."""
    replicas = replicas_at(starts, first, [plan.temperature] * plan.n_walkers)
    walkers = [_Walker(plan, Trajectory(replica=replica), settings) for replica in replicas]
    for number in range(plan.n_hops + 1):
        walking = [walker for walker in walkers if not walker.trajectory.reason]
        relaxed = relax(
            [walker.trial(number) for walker in walking], forces, settings,
            converged_force=plan.converged_force, n_steps=plan.max_steps, stride=plan.max_steps,
        )  # fmt: skip
        for walker, one in zip(walking, relaxed, strict=True):
            walker.take(one, number)
    return [walker.trajectory for walker in walkers]


def run(
    plan: BasinHoppingPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Hop on the energies of the first member."""
    return hop(plan, starts, MaceForces(models[:1]), settings, first)
