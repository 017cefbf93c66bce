"""The plans of an exploration: each a way to search configuration space, described by a small settings object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aiida_mlipal.science.settings import check_integer, check_number

__all__ = ('DynamicsPlan', 'DynamicsSettings', 'Plan')


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """What all plans have in common. Where a key of the exploration has the same name, it is the default."""

    KIND: ClassVar[str] = ''

    name: str = ''  #: by which frames refer to the plan; by default its kind

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f'`name` must be text, got {self.name!r}.')

    @property
    def label(self) -> str:
        """The name, or the kind."""
        return self.name or self.KIND

    @property
    def is_unbiased(self) -> bool:
        """Whether its frames are what a user of the potential will meet: the random stream is drawn from these."""
        return False

    @property
    @abstractmethod
    def n_replicas(self) -> int:
        """Number of replicas."""


@dataclass(frozen=True, kw_only=True)
class DynamicsSettings:
    """Molecular dynamics of ``n_replicas_per_temperature`` replicas at each temperature."""

    temperatures: Sequence[float] = (300.0, 600.0, 900.0)  #: K
    n_replicas_per_temperature: int = 4
    n_steps: int = 500
    stride: int = 10  #: steps between saved frames
    time_step: float = 1.0  #: fs
    friction: float = 0.01  #: 1/fs; 0 conserves the energy

    def __post_init__(self) -> None:
        for name in ('n_replicas_per_temperature', 'n_steps', 'stride'):
            check_integer(name, getattr(self, name))
        check_number('time_step', self.time_step, above=0)
        check_number('friction', self.friction, within=(0, 1e6))
        if not isinstance(self.temperatures, (list, tuple)) or not self.temperatures:
            raise ValueError(f'`temperatures` must be a list of at least one number in K, got {self.temperatures!r}.')
        for value in self.temperatures:
            check_number('temperatures', value, above=0)
        if self.n_steps < self.stride:
            raise ValueError(
                f'`n_steps` ({self.n_steps}) is less than `stride` ({self.stride}), so no frame would be kept: '
                'lower `stride`.'
            )

    @property
    def replica_temperatures(self) -> list[float]:
        """Temperature of each replica in K: the first of the list for the first ones."""
        return [float(value) for value in self.temperatures for _ in range(self.n_replicas_per_temperature)]


@dataclass(frozen=True, kw_only=True)
class DynamicsPlan(DynamicsSettings, Plan):
    """Canonical Langevin dynamics."""

    KIND: ClassVar[str] = 'dynamics'

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        DynamicsSettings.__post_init__(self)

    @property
    def is_unbiased(self) -> bool:
        """It samples the canonical ensemble."""
        return True

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.replica_temperatures)
