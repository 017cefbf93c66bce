"""Plan ``metadynamics``: well-tempered metadynamics on chosen variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiida_mlipal.runners.bias.collective_variables import Latents, make_variable
from aiida_mlipal.runners.bias.metadynamics import Metadynamics
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.plans.dynamics import in_bath
from aiida_mlipal.runners.trajectory import Trajectory, replicas_at
from aiida_mlipal.science.collective_variables import Latent
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_metadynamics import MetadynamicsPlan

__all__ = ('run',)


def run(
    plan: MetadynamicsPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Move the replicas with the first member and the hills; ``found`` tells those that each left."""
    forces, variables = MaceForces(models), plan.read_variables()
    key = [settings.seed, settings.iteration]
    latents = {
        rattle: Latents.of(starts, forces, rattle=rattle, key=key)
        for rattle in {variable.rattle for variable in variables if isinstance(variable, Latent)}
    }
    biased = Metadynamics(forces, [make_variable(variable, latents) for variable in variables], plan)
    replicas = replicas_at(starts, first, plan.replica_temperatures)
    trajectories = in_bath(replicas, biased, forces, plan, settings, keeper=keeper, after_stride=biased.deposit)
    for trajectory in trajectories:
        trajectory.found = {'hills': biased.hills(trajectory.replica.index)}
    return trajectories
