"""Plan ``plumed``: dynamics under the bias of a PLUMED input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiida_mlipal.runners.bias.plumed import PlumedBias, check_kernel
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.plans.dynamics import in_bath
from aiida_mlipal.runners.trajectory import Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_plumed import PlumedPlan

__all__ = ('run',)


def run(
    plan: PlumedPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Move the replicas with the first member and PLUMED's bias; a killed job begins with them anew.

    :raises SettingsRefused: without PLUMED.
    """
    check_kernel()
    forces = MaceForces(models)
    replicas = replicas_at(starts, first, plan.replica_temperatures)
    return in_bath(replicas, PlumedBias(forces, plan, Path.cwd()), forces, plan, settings)
