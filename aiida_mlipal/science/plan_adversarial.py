"""Plan ``adversarial``: displacements along which the model is least sure, as far as they are still likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aiida_mlipal.science.exploration_plans import Plan
from aiida_mlipal.science.settings import check_integer, check_number

__all__ = ('AdversarialPlan',)


@dataclass(frozen=True, kw_only=True)
class AdversarialPlan(Plan):
    """Gradient ascent of log(variance of forces) - E / kT (Schwalbe-Koda et al., Nat. Commun. 12, 5104 (2021))."""

    KIND: ClassVar[str] = 'adversarial'
    NEEDS_UNCERTAINTY: ClassVar[bool] = True

    n_attacks: int = 8  #: one replica each
    #: K, of the Boltzmann weight: the higher, the farther. From a minimum the energy of the whole frame, whatever its
    #: size, rises by about kT; this is the authors' choice for alanine dipeptide (20 kcal/mol)
    temperature: float = 10000.0
    displacement: float = 0.05  #: Å; standard deviation of the random displacements before
    n_moves: int = 40
    save_every: int = 20  #: steps between saved frames
    step_size: float = 0.02  #: Å; of an atom's coordinate in a step of Adam, about

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('n_attacks', 'n_moves', 'save_every'):
            check_integer(name, getattr(self, name))
        for name in ('temperature', 'displacement', 'step_size'):
            check_number(name, getattr(self, name), above=0)
        if self.n_moves < self.save_every:
            raise ValueError(
                f'`n_moves` ({self.n_moves}) is less than `save_every` ({self.save_every}), so no frame would be kept: '
                'lower `save_every`.'
            )

    @property
    def n_replicas(self) -> int:
        """Number of attacks."""
        return self.n_attacks
