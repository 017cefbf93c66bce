"""Plan ``basin_hopping``: from minimum to minimum, by displacements of all atoms and by swaps of unlike ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.exploration_plans import Plan
from aiida_mlipal.science.settings import check_integer, check_number

__all__ = ('BasinHoppingPlan', 'propose')


@dataclass(frozen=True, kw_only=True)
class BasinHoppingPlan(Plan):
    """Basin hopping (Wales and Doye, J. Phys. Chem. A 101, 5111): every trial is relaxed, then accepted or not."""

    KIND: ClassVar[str] = 'basin_hopping'

    n_walkers: int = 4
    n_hops: int = 10
    temperature: float = 1000.0  #: K, of the Metropolis criterion
    displacement: float = 0.4  #: Å; each coordinate of all atoms moves by up to this
    #: share of the trials that exchange two atoms of different elements instead; of no use with a single element
    swap_share: float = 0.5
    max_steps: int = 60  #: of each relaxation, at most
    converged_force: float = 0.1  #: eV/Å, of each relaxation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('n_walkers', 'n_hops', 'max_steps'):
            check_integer(name, getattr(self, name))
        for name in ('temperature', 'displacement', 'converged_force'):
            check_number(name, getattr(self, name), above=0)
        check_number('swap_share', self.swap_share, within=(0, 1))

    @property
    def n_replicas(self) -> int:
        """Number of walkers."""
        return self.n_walkers


def propose(
    numbers: NDArray[np.int64], positions: NDArray[np.float64], plan: BasinHoppingPlan, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the positions ``(N, 3)`` of a trial: two atoms of different elements exchanged, or all displaced."""
    trial = positions.copy()
    if rng.random() < plan.swap_share and len(np.unique(numbers)) > 1:
        one = int(rng.integers(len(numbers)))
        other = int(rng.choice(np.flatnonzero(numbers != numbers[one])))
        trial[[one, other]] = trial[[other, one]]
    else:
        trial += rng.uniform(-plan.displacement, plan.displacement, size=trial.shape)
    return trial
