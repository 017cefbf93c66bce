"""Frames of every periodicity for the tests of biases, and what differentiates them numerically."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111

from aiida_mlipal.runners.trajectory import Replica
from tests.committee import copper


def frames() -> list[Atoms]:
    """Return a cubic crystal, a skewed one of primitive cells, a slab and a molecule, all of four or more atoms."""
    primitive = bulk('Cu', 'fcc', a=3.6) * (2, 2, 1)
    slab = fcc111('Cu', (2, 2, 2), a=3.6, vacuum=5.0)
    for seed, atoms in enumerate((primitive, slab)):
        atoms.rattle(0.1, seed=seed)
    molecule = Atoms('Cu4', positions=[[0, 0, 0], [2.3, 0.1, 0], [0.2, 2.4, 0.1], [1.0, 1.0, 2.2]])
    return [copper(3), primitive, slab, molecule]


def replica(index: int, atoms: Atoms, temperature: float = 600.0) -> Replica:
    """Return a replica that begins at ``atoms``."""
    return Replica(
        index=index, numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc,
        temperature=temperature,
    )  # fmt: skip


def numerical_gradient(function: Callable[[Any], Any], positions: Any, step: float = 1e-4) -> np.ndarray:
    """Return the derivative of a function of the positions, a tensor, by central differences."""
    gradient = np.zeros(positions.shape)
    for index in np.ndindex(*positions.shape):
        ends = []
        for sign in (1, -1):
            moved = positions.detach().clone()
            moved[index] += sign * step
            ends.append(float(function(moved)))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient
