"""Plan ``replica_exchange``: ladders of temperatures that are exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.motion.exchange import Exchange
from aiida_mlipal.runners.plans.dynamics import in_bath
from aiida_mlipal.runners.trajectory import Replica, Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_exchange import ReplicaExchangePlan

__all__ = ('run',)


def _ladders(plan: ReplicaExchangePlan, starts: Configurations, first: int) -> list[list[Replica]]:
    """Return the replicas of each ladder, all of one from the same start."""
    starting = [ladder % len(starts) for ladder in range(plan.n_replicas_per_temperature)]
    columns = [
        replicas_at(starts.take(starting), 0, [float(temperature)] * len(starting)) for temperature in plan.temperatures
    ]
    return [
        [
            replace(column[ladder], index=first + ladder * len(columns) + rung, start=starting[ladder])
            for rung, column in enumerate(columns)
        ]
        for ladder in range(len(starting))
    ]


def _swaps(trajectories: Sequence[Trajectory], temperatures: Sequence[float]) -> list[int]:
    """Return how often each temperature but the last was swapped with the next: the frames tell the temperatures."""
    rungs = [float(temperature) for temperature in temperatures]
    counts = [0] * (len(rungs) - 1)
    for trajectory in trajectories:
        for before, after in pairwise(frame.temperature for frame in trajectory.frames):
            if after > before:  # the other one of the pair falls
                counts[rungs.index(before)] += 1
    return counts


def run(
    plan: ReplicaExchangePlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Move all ladders together with the first member; notes tell how many swaps there were."""
    forces = MaceForces(models)
    ladders = _ladders(plan, starts, first)
    exchange = Exchange(
        [[replica.index for replica in ladder] for ladder in ladders],
        plan.stride,
        [settings.seed, settings.iteration],
    )
    trajectories = in_bath(
        [replica for ladder in ladders for replica in ladder],
        forces,
        forces,
        plan,
        settings,
        group=lambda replica: (replica.index - first) // len(plan.temperatures),
        keeper=keeper,
        after_stride=exchange,
    )
    keeper.notes['swaps'] = _swaps(trajectories, plan.temperatures)
    return trajectories
