"""The canonical ensemble without noise: chains of thermostats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from ase import units

from aiida_mlipal.runners.motion.moving import Moving
from aiida_mlipal.runners.trajectory import Replica

__all__ = ('NoseHoover',)

_LENGTH: Final = 3
#: Weights of the third-order scheme of Suzuki and Yoshida.
_OUTER: Final = 1 / (2 - 2 ** (1 / 3))
_WEIGHTS: Final = (_OUTER, 1 - 2 * _OUTER, _OUTER)


class NoseHoover(Moving):
    """A chain of three thermostats per replica, whose relaxation time is the inverse of the friction.

    Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635, integrated as in Martyna et al., Mol. Phys. 87, 1117: the
    chain acts for half a step before and after a step of velocity Verlet. :meth:`conserved` stays what it was.
    """

    SYSTEMIC: ClassVar[tuple[str, ...]] = (*Moving.SYSTEMIC, 'chain', 'thermostats')

    chain: Any  #: ``(S, 3)``, rates of the thermostats, the first acts on the atoms
    thermostats: Any  #: ``(S, 3)``, what they have done so far

    def rows(self, replicas: Sequence[Replica]) -> dict[str, Any]:
        """See :meth:`Systems.rows`."""
        rest = np.zeros((len(replicas), _LENGTH))
        return {**super().rows(replicas), 'chain': self.tensor(rest), 'thermostats': self.tensor(rest)}

    def step(self) -> None:
        """Move all replicas by one time step."""
        self._bath()
        self._kick()
        self._drift()
        self._drift()
        self._arrive()
        self._kick()
        self._bath()

    def conserved(self) -> Any:
        """Return the energy of atoms and thermostats, ``(S,)``, eV."""
        heat, masses = units.kB * self.targets[:, None], self._thermostat_masses()
        stored = 0.5 * masses * self.chain**2 + heat * self._freedom() * self.thermostats
        return self.energies + self.kinetic_energies() + stored.sum(dim=1)

    def _freedom(self) -> Any:
        """Return the degrees of freedom that each thermostat of the chains acts upon, ``(S, 3)``."""
        import torch

        others = torch.ones_like(self.chain[:, 1:])
        return torch.cat([self.dof[:, None], others], dim=1)

    def _thermostat_masses(self) -> Any:
        return units.kB * self.targets[:, None] * self._freedom() / self._friction**2

    def _bath(self) -> None:
        """Let the chains act for half a step."""
        import torch

        heat, masses, rates = units.kB * self.targets, self._thermostat_masses(), self.chain.clone()
        twice_kinetic = 2 * self.kinetic_energies()
        scale = torch.ones_like(twice_kinetic)

        def push(link: int, time: float) -> None:
            """Let the link before, or the atoms, act on the rate of a link, which the link behind brakes."""
            driven = (
                twice_kinetic * scale**2 - self.dof * heat
                if link == 0
                else masses[:, link - 1] * rates[:, link - 1] ** 2 - heat
            )
            brake = torch.exp(-rates[:, link + 1] * time / 2) if link + 1 < _LENGTH else 1.0
            rates[:, link] = (rates[:, link] * brake + driven / masses[:, link] * time) * brake

        for weight in _WEIGHTS:
            time = weight * self._time / 2
            for link in reversed(range(_LENGTH)):
                push(link, time / 2)
            scale = scale * torch.exp(-rates[:, 0] * time)
            self.thermostats = self.thermostats + rates * time
            for link in range(_LENGTH):
                push(link, time / 2)
        self.chain = rates
        self.velocities = self.velocities * scale[self.system][:, None]
