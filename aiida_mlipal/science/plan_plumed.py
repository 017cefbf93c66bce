"""Plan ``plumed``: dynamics under whatever bias a PLUMED input describes.

Tribello, Bonomi, Branduardi, Camilloni and Bussi, Comput. Phys. Commun. 185, 604 (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aiida_mlipal.science.exploration_plans import DynamicsSettings, Plan

__all__ = ('PlumedPlan',)


@dataclass(frozen=True, kw_only=True)
class PlumedPlan(DynamicsSettings, Plan):
    """Dynamics with a bias by PLUMED, which the compute node must have installed."""

    KIND: ClassVar[str] = 'plumed'

    #: lines of a PLUMED input, in PLUMED's units (nm, kJ/mol, ps) unless they begin with `UNITS`; atoms count from 1
    input: Sequence[str]

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        DynamicsSettings.__post_init__(self)
        lines = self.input if isinstance(self.input, (list, tuple)) else ()
        if not lines or not all(isinstance(line, str) for line in lines):
            raise ValueError(f'`input` must be a list of the lines of a PLUMED input, got {self.input!r}.')
        if any('ENERGY' in line.split() for line in lines):
            raise ValueError('`input`: a bias on `ENERGY` is not possible here, PLUMED is not given the forces.')

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.replica_temperatures)
