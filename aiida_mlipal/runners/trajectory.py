"""What every plan of an exploration starts from and returns: replicas and the trajectories that they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations

__all__ = ('Frame', 'Replica', 'Trajectory', 'replica_at', 'replicas_at')


@dataclass(frozen=True, eq=False, kw_only=True)
class Replica:
    """One system to move: ``(N,)`` atomic numbers, ``(N, 3)`` positions and ``(3, 3)`` cell in Å."""

    index: int  #: number within the exploration, all plans counted; random streams are keyed by it
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    start: int = 0  #: row of the starts
    temperature: float = float('nan')  #: K
    pressure: float = float('nan')  #: eV/Å³
    reference_cell: NDArray[np.float64] | None = None  #: ``(3, 3)`` in Å, if not that of the start

    @property
    def masses(self) -> NDArray[np.float64]:
        """Masses in u, shape ``(N,)``."""
        masses: NDArray[np.float64] = atomic_masses[self.numbers]
        return masses


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One visited frame: unwrapped positions ``(N, 3)`` and cell ``(3, 3)`` in Å."""

    step: int
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    temperature: float = float('nan')  #: of the bath, K; where it is not the replica's
    mark: str = ''  #: what is special about it, as ``saddle``; it becomes the frame's ``origin``


@dataclass(eq=False, kw_only=True)
class Trajectory:
    """The frames that one replica visited, all within bounds, and how it ended."""

    replica: Replica
    frames: list[Frame] = field(default_factory=list)
    n_steps: int = 0  #: steps done
    reason: str = ''  #: why it stopped before its time, if it did
    unsafe: Frame | None = None  #: the first frame out of bounds, if it can still be labelled
    found: dict[str, Any] = field(default_factory=dict)  #: what there is to tell beside the frames; plain values


def replica_at(
    starts: Configurations,
    start: int,
    index: int,
    temperature: float = float('nan'),
    pressure: float = float('nan'),
) -> Replica:
    """Return replica ``index``, which begins at row ``start`` of the starts."""
    atoms = slice(starts.offsets[start], starts.offsets[start + 1])
    return Replica(
        index=index,
        start=start,
        numbers=starts.numbers[atoms],
        positions=starts.positions[atoms],
        cell=starts.cell[start],
        pbc=starts.pbc[start],
        temperature=temperature,
        pressure=pressure,
    )


def replicas_at(
    starts: Configurations, first: int, temperatures: Sequence[float], pressures: Sequence[float] | None = None
) -> list[Replica]:
    """Return a replica per temperature, numbered from ``first``; number ``i`` begins at start ``i % n_starts``.

    :param pressures: one per replica, eV/Å³.
    """
    return [
        replica_at(
            starts,
            index % len(starts),
            index,
            temperature,
            float('nan') if pressures is None else pressures[index - first],
        )
        for index, temperature in enumerate(temperatures, start=first)
    ]
