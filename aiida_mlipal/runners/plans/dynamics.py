"""Plan ``dynamics``: molecular dynamics of many replicas, from which the random stream is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiida_mlipal.runners.dynamics import propagate
from aiida_mlipal.runners.trajectory import Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_plans import DynamicsPlan
from aiida_mlipal.science.exploration_settings import ExplorationSettings

__all__ = ('run',)


def run(
    plan: DynamicsPlan, starts: Configurations, models: Sequence[Any], settings: ExplorationSettings, first: int
) -> list[Trajectory]:
    """Move the replicas with the first member; ``first`` is the number of the first replica."""
    return propagate(replicas_at(starts, first, plan.replica_temperatures), models[0], plan, settings)
