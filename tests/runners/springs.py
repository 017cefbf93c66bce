"""A model whose thermodynamics are known: atoms on springs in a cell with an equation of state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import units

from aiida_mlipal.runners.forces import Prediction
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Replica

VOLUME = 160.0  #: Å³
BULK_MODULUS = 100 * units.GPa


def replica(index: int, temperature: float = 600.0, pressure: float = 0.0) -> Replica:
    """Return eight atoms on the sites of a cubic cell of :data:`VOLUME`."""
    side = VOLUME ** (1 / 3)
    sites = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) / 2
    return Replica(
        index=index, numbers=np.full(8, 14), positions=sites * side, cell=np.eye(3) * side, pbc=np.ones(3, dtype=bool),
        temperature=temperature, pressure=pressure,
    )  # fmt: skip


@dataclass
class Springs:
    """``U = k / 2 sum |u_i - <u>|^2 + q / 4 sum |u_i - <u>|^4 + B / 2 V_0 (V / V_0 - 1)^2``.

    ``u_i`` is the displacement of an atom from its site, which moves with the cell. The springs' part of the partition
    function is the same in every cell, so for a total momentum of zero the volume is distributed as
    ``exp(-(U(V) + P V) / kT)``: a normal law around ``V_0 (1 - P / B)`` with the variance ``kT V_0 / B``.
    Without springs and bulk modulus the atoms are an ideal gas, with a mean volume of ``N kT / P``.
    """

    stiffness: float = 5.0  #: eV/Å²
    quartic: float = 0.0  #: eV/Å⁴
    bulk_modulus: float = BULK_MODULUS  #: eV/Å³
    device: str = 'cpu'

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        """See :class:`aiida_mlipal.runners.forces.Forces`."""
        import torch

        sites = torch.cat([torch.tensor(item.positions @ np.linalg.inv(item.cell)) for item in systems.replicas])
        away = systems.positions - (sites[:, None, :] @ systems.cells[systems.system]).squeeze(1)
        mean = torch.zeros((len(systems.replicas), 3), dtype=away.dtype).index_add_(0, systems.system, away)
        away = away - (mean / torch.tensor(systems.sizes)[:, None])[systems.system]
        squares = (away**2).sum(dim=1, keepdim=True)
        pull = (self.stiffness + self.quartic * squares) * away
        of_mean = torch.zeros_like(mean).index_add_(0, systems.system, pull) / torch.tensor(systems.sizes)[:, None]
        forces = of_mean[systems.system] - pull
        volumes = torch.linalg.det(systems.cells).abs()
        excess = volumes / VOLUME - 1
        springs = (0.5 * self.stiffness * squares + 0.25 * self.quartic * squares**2)[:, 0]
        energies = systems.per_system(springs, 'sum') + 0.5 * self.bulk_modulus * VOLUME * excess**2
        if not stress:
            return Prediction(energies, forces)
        virial = torch.zeros_like(systems.cells).index_add_(0, systems.system, -forces[:, :, None] * away[:, None, :])
        pressure = self.bulk_modulus * excess
        stresses = virial / volumes[:, None, None] + pressure[:, None, None] * torch.eye(3, dtype=away.dtype)
        return Prediction(energies, forces, stresses)

    def state(self, systems: Systems) -> dict[str, Any]:
        """There is none."""
        return {}

    def restore(self, systems: Systems, state: dict[str, Any]) -> None:
        """Nothing to do."""
