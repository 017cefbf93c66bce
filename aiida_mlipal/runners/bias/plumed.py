"""Forces with the bias of PLUMED around them, through ASE's interface: one PLUMED for each replica."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from aiida_mlipal.runners.forces import Forces, Prediction
from aiida_mlipal.runners.main import SettingsRefused
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Replica
from aiida_mlipal.science.plan_plumed import PlumedPlan

__all__ = ('PlumedBias', 'check_kernel')


def check_kernel() -> None:
    """Refuse a machine without PLUMED.

    :raises SettingsRefused: with what to install.
    """
    try:
        from plumed import Plumed

        Plumed().finalize()
    except Exception as exception:
        raise SettingsRefused(
            f'the plan `plumed` needs PLUMED and its kernel on the compute node, and did not find them ({exception}). '
            'Install both by `conda install -c conda-forge plumed py-plumed`. After `pip install plumed`, which brings '
            'the interface alone, the environment variable PLUMED_KERNEL must name a libplumedKernel.so.'
        ) from exception


@dataclass(eq=False)
class _Running:
    """PLUMED of one replica, and what it said at which positions."""

    calculator: Any
    step: int
    positions: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64]


class PlumedBias:
    """Forces with a bias. The files that PLUMED writes lie in a folder for each replica, as ``plumed-r003``."""

    def __init__(self, forces: Forces, plan: PlumedPlan, folder: Path) -> None:
        self._forces, self._plan, self._folder = forces, plan, folder
        self.device = forces.device
        self._running: dict[int, _Running] = {}

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        """See :class:`aiida_mlipal.runners.forces.Forces`; there is no stress."""
        assert not stress, 'the bias moves atoms, not cells'
        energies, forces, _ = self._forces(systems)
        found = [
            self._bias(replica, positions)
            for replica, positions in zip(systems.replicas, systems.split(systems.positions), strict=True)
        ]
        return Prediction(
            energies + systems.tensor([energy for energy, _ in found]),
            forces + systems.tensor(np.concatenate([force for _, force in found])),
        )

    def state(self, systems: Systems) -> dict[str, NDArray[Any]]:
        """See :class:`aiida_mlipal.runners.forces.Forces`; what PLUMED remembers is not in it."""
        return self._forces.state(systems)

    def restore(self, systems: Systems, state: dict[str, NDArray[Any]]) -> None:
        """Refuse: a bias with a memory cannot go on without it."""
        raise NotImplementedError('a run with PLUMED begins anew, it does not go on.')

    def _bias(self, replica: Replica, positions: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return energy and forces of the bias. Each new geometry is a step of PLUMED, which has a memory."""
        running = self._running.get(replica.index)
        if running is None:
            nothing = np.zeros((0, 3))
            running = self._running[replica.index] = _Running(self._start(replica), -1, nothing, 0.0, nothing)
        if not np.array_equal(running.positions, positions):
            running.step += 1
            running.positions = positions
            with contextlib.chdir(self._folder_of(replica)):
                energy, running.forces, _ = running.calculator.compute_bias(positions, running.step, 0.0)
            running.energy = float(energy)
        return running.energy, running.forces

    def _folder_of(self, replica: Replica) -> Path:
        return self._folder / f'plumed-r{replica.index:03d}'

    def _start(self, replica: Replica) -> Any:
        from ase.calculators.plumed import Plumed

        atoms = Atoms(numbers=replica.numbers, positions=replica.positions, cell=replica.cell, pbc=replica.pbc)
        folder = self._folder_of(replica)
        folder.mkdir(exist_ok=True)
        with contextlib.chdir(folder):
            return Plumed(
                None,
                list(self._plan.input),
                self._plan.time_step * units.fs,
                atoms=atoms,
                kT=units.kB * replica.temperature,
                log='plumed.log',
            )
