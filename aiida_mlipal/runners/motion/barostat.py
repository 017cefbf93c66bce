"""Constant pressure: the cell follows a stochastic equation of first order, the bath is that of Langevin dynamics.

Stochastic cell rescaling, isotropic (Bernetti and Bussi, J. Chem. Phys. 153, 114107) and with a full cell (Del Tatto,
Raiteri, Bernetti and Bussi, Appl. Sci. 12, 1139), in logarithmic strain. Take the cell to ``h exp(e)``, positions with
it and momenta against it, along one of the orthonormal strains ``E``. With respect to the invariant measure of such
deformations the isothermal-isobaric ensemble has the density ``V exp(-(K + U + P V) / kT)``, whose logarithm changes
along ``E`` by ``tr(E G)`` with ``G = 1 + V / kT (P_int - P)``. So

    de = D tr(E G) dt + sqrt(2 D) dW,    D = C kT / (3 V_0 tau)

samples it for any constant ``D``: the volume of the start in it, and not the present one, saves the correction for a
noise that depends on the volume. ``C`` is the compressibility, ``tau`` the time within which a material with this
compressibility follows the pressure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from ase import units

from aiida_mlipal.runners.forces import Forces
from aiida_mlipal.runners.motion.moving import Langevin
from aiida_mlipal.runners.trajectory import Replica

__all__ = ('Barostat',)

#: A strain beyond this in a single step is no answer to any pressure.
_RUNAWAY: Final = 0.05


class Barostat(Langevin):
    """Langevin dynamics at the pressure ``replica.pressure`` in a cell that changes its volume, or its shape too.

    :param full_cell: whether the six strains fluctuate, or the volume alone.
    :param barostat_time: fs.
    :param compressibility: 1/GPa.
    """

    SYSTEMIC: ClassVar[tuple[str, ...]] = (*Langevin.SYSTEMIC, 'pressures', 'first_volumes', 'strains')
    NEEDS_STRESS: ClassVar[bool] = True

    pressures: Any  #: ``(S,)``, eV/Å³
    first_volumes: Any  #: ``(S,)``, Å³
    strains: Any  #: ``(S,)``, largest strain of the last step

    def __init__(
        self,
        replicas: Sequence[Replica],
        forces: Forces,
        *,
        full_cell: bool,
        barostat_time: float,
        compressibility: float,
        **more: Any,
    ) -> None:
        self._full_cell = full_cell
        self._rate = compressibility / units.GPa / (3 * barostat_time * units.fs)
        super().__init__(replicas, forces, **more)

    def rows(self, replicas: Sequence[Replica]) -> dict[str, Any]:
        """See :meth:`Systems.rows`."""
        return {
            **super().rows(replicas),
            'pressures': self.tensor([float(replica.pressure) for replica in replicas]).double(),
            'first_volumes': self.tensor([abs(float(np.linalg.det(replica.cell))) for replica in replicas]).double(),
            'strains': self.tensor(np.zeros(len(replicas))),
        }

    def start_block(self, n_steps: int) -> None:
        """Draw the noise of the next steps."""
        super().start_block(n_steps)
        draws = [
            np.random.default_rng([*self._key, replica.index, 1 + step, 1]).standard_normal((n_steps, 3, 3))
            for replica, step in zip(self.replicas, self.steps.tolist(), strict=True)
        ]
        self._strain_noise = self.tensor(np.array(draws))

    def keep(self, systems: Sequence[int]) -> None:
        """See :meth:`Systems.keep`."""
        super().keep(systems)
        if self._noise is not None:
            self._strain_noise = self._strain_noise[list(systems)]

    def pressure_tensors(self) -> Any:
        """Return the pressure tensor inside each cell, momenta and forces together, ``(S, 3, 3)``, eV/Å³."""
        import torch

        momentum_flow = torch.zeros_like(self.cells)
        momentum_flow.index_add_(
            0, self.system, self.masses[:, :, None] * self.velocities[:, :, None] * self.velocities[:, None, :]
        )
        return momentum_flow / self.volumes()[:, None, None] - self.stresses

    def volumes(self) -> Any:
        """Return the volumes, ``(S,)``, Å³."""
        import torch

        return torch.linalg.det(self.cells).abs()

    def runaways(self) -> dict[int, str]:
        """Return the systems whose cell does not follow the pressure any more."""
        bad = (~(self.strains <= _RUNAWAY)).nonzero().flatten().tolist()
        return {
            system: f'the barostat ran away: a strain of {float(self.strains[system]):.1%} in a single step'
            for system in bad
        }

    def _bath(self) -> None:
        """Let the bath act for a whole step, then the barostat. Stresses are those of half a step before."""
        import torch

        noise = self._strain_noise[:, self._at]
        super()._bath()
        heat = units.kB * self.targets[:, None, None]
        one = torch.eye(3, dtype=heat.dtype, device=heat.device)
        excess = self.pressure_tensors() - self.pressures[:, None, None] * one
        drive = one + self.volumes()[:, None, None] / heat * excess
        mobility = self._rate * self._time * heat / self.first_volumes[:, None, None]
        strains = mobility * drive + (2 * mobility).sqrt() * noise
        strains = 0.5 * (strains + strains.mT) if self._full_cell else self._isotropic(mobility, drive, noise)
        self.strains = strains.abs().amax(dim=(1, 2))
        # Whoever runs away is ended after this step; until then it must remain a cell.
        strains = torch.nan_to_num(strains).clamp(-_RUNAWAY, _RUNAWAY)
        self.deform(strains)
        self.velocities = (self.velocities[:, None, :] @ torch.linalg.matrix_exp(-strains)[self.system]).squeeze(1)

    def _isotropic(self, mobility: Any, drive: Any, noise: Any) -> Any:
        """Return the strain of the volume alone."""
        import torch

        one = torch.eye(3, dtype=drive.dtype, device=drive.device)
        trace = drive.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
        return one * (mobility * trace / 3 + (2 * mobility / 3).sqrt() * noise[:, :1, :1])
