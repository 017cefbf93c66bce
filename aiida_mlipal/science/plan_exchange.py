"""Plan ``replica_exchange``: replicas at neighbouring temperatures that exchange them.

Parallel tempering of molecular dynamics: Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999). A swap of temperatures
is accepted with probability min(1, exp((β - β')(E - E'))), and velocities are scaled to the new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aiida_mlipal.science.exploration_plans import DynamicsSettings, Plan

__all__ = ('ReplicaExchangePlan',)


@dataclass(frozen=True, kw_only=True)
class ReplicaExchangePlan(DynamicsSettings, Plan):
    """A ladder of ``temperatures``: every ``stride`` steps neighbours on it try to swap theirs.

    There are ``n_replicas_per_temperature`` ladders, each from one start.
    """

    KIND: ClassVar[str] = 'replica_exchange'

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        DynamicsSettings.__post_init__(self)
        if len(self.temperatures) < 2 or sorted(set(self.temperatures)) != list(self.temperatures):
            raise ValueError(
                f'`temperatures` of an exchange must be two or more that rise, got {list(self.temperatures)}: '
                'the nearer they are, the more swaps are accepted.'
            )
        if not self.friction:
            raise ValueError('`friction` of an exchange must be above 0: temperatures are those of a bath.')

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.replica_temperatures)
