"""Plan ``uncertainty_bias``: dynamics that are drawn to where the model is unsure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiida_mlipal.runners.bias.uncertainty import UncertaintyBias
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.plans.dynamics import in_bath
from aiida_mlipal.runners.trajectory import Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_uncertainty import UncertaintyPlan

__all__ = ('run',)


def run(
    plan: UncertaintyPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Move the replicas with the mean of all members and the bias; ``found`` tells the strength at the end."""
    forces = MaceForces(models)
    biased = UncertaintyBias(forces, plan)
    replicas = replicas_at(starts, first, plan.replica_temperatures)
    trajectories = in_bath(replicas, biased, forces, plan, settings, keeper=keeper, after_stride=biased.adapt)
    for trajectory in trajectories:
        trajectory.found = {'strength': biased.strength(trajectory.replica.index)}
    return trajectories
