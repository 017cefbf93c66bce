"""Forces of a calculator of ASE in the shape of a model's, so that plans can be held against a known potential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from aiida_mlipal.runners.forces import Prediction
from aiida_mlipal.runners.systems import Systems


class AseForces:
    """Energies, forces and stresses of a batch, one system after the other."""

    device = 'cpu'

    def __init__(self, make_calculator: Callable[[], Any]) -> None:
        self._make = make_calculator
        self.n_calls = 0

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        self.n_calls += 1
        energies, forces, stresses = [], [], []
        for replica, positions, cell in zip(
            systems.replicas, systems.split(systems.positions), systems.cells.numpy(), strict=True
        ):
            atoms = Atoms(
                numbers=replica.numbers, positions=positions, cell=cell, pbc=replica.pbc, calculator=self._make()
            )
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
            stresses.append(atoms.get_stress(voigt=False) if stress else np.zeros((3, 3)))
        tensors = (systems.tensor(np.array(energies)), systems.tensor(np.concatenate(forces)))
        return Prediction(*tensors, systems.tensor(np.array(stresses)))

    def state(self, systems: Systems) -> dict[str, NDArray[Any]]:
        return {}

    def restore(self, systems: Systems, state: dict[str, NDArray[Any]]) -> None:
        pass
