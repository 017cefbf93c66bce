"""Neighbour lists of a batch (Verlet, Phys. Rev. 159, 98), searched anew only where a system has moved too far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.systems import Systems

__all__ = ('Neighbours',)

#: Å beyond the cutoff within which neighbours are searched. At 300 K a list then lasts for some tens of steps.
_SKIN: Final = 0.5
#: With a system that needs it, all are searched anew that have used up this share of their skin: putting the lists of a
#: large batch together costs more than some of the searches.
_SOON: Final = 0.5


@dataclass(frozen=True, eq=False, slots=True)
class _List:
    """Pairs of one system, and where its atoms were when they were searched."""

    edges: NDArray[np.int64]  # (2, E)
    shifts: NDArray[np.float64]  # (E, 3), in cell vectors
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]


class Neighbours:
    """Pairs of atoms within ``cutoff`` (Å) of each other, periodic images included."""

    def __init__(self, cutoff: float) -> None:
        self._cutoff = cutoff
        self._lists: dict[int, _List] = {}  # by replica
        self._members: list[tuple[int, int]] = []

    def __call__(self, systems: Systems) -> tuple[Any, Any, Any]:
        """Return ``(2, E)`` atoms, ``(E, 3)`` cell vectors between them as integers, and the same in Å.

        The vector of a pair is ``positions[edges[1]] - positions[edges[0]] + shifts``.
        """
        import torch

        self._update(systems)
        still = torch.equal(systems.cells, self._cells)
        shifts = self._shifts if still else (self._unit[:, None, :] @ systems.cells[self._system]).squeeze(1)
        first, second = self._edges
        vectors = systems.positions[second] - systems.positions[first] + shifts
        near = (vectors**2).sum(dim=1) < self._cutoff**2
        return self._edges[:, near], self._unit[near], shifts[near]

    def references(self, systems: Systems) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where the atoms ``(A, 3)`` and cells ``(S, 3, 3)`` were when their neighbours were searched."""
        lists = [self._lists[replica.index] for replica in systems.replicas]
        return np.concatenate([item.positions for item in lists]), np.array([item.cell for item in lists])

    def search(self, systems: Systems, positions: NDArray[np.float64], cells: NDArray[np.float64]) -> None:
        """Search the neighbours of all systems as if their atoms were at ``positions``."""
        for system, own in enumerate(np.split(positions, systems.ends[:-1])):
            self._search(systems, system, own, cells[system])
        self._members = []

    def _search(self, systems: Systems, system: int, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> None:
        from mace.data.neighborhood import get_neighborhood

        pbc = systems.pbc[system]
        edges, _, units, _ = get_neighborhood(
            positions, self._cutoff + _SKIN, (bool(pbc[0]), bool(pbc[1]), bool(pbc[2])), cell.copy()
        )
        self._lists[systems.replicas[system].index] = _List(
            edges=edges, shifts=units.astype(np.float64), positions=positions, cell=cell
        )

    def _update(self, systems: Systems) -> None:
        """Search anew where a pair may have come within the cutoff that is not in the list."""
        members = [(replica.index, len(replica.numbers)) for replica in systems.replicas]
        if members != self._members:
            known = {index: len(item.positions) for index, item in self._lists.items()}
            self._search_all(systems, [i for i, (index, size) in enumerate(members) if known.get(index) != size])
            self._lists = {index: self._lists[index] for index, _ in members}
            self._members = members
            self._join(systems)
        used = self._used(systems)
        if bool((used >= 1).any()):
            self._search_all(systems, (used >= _SOON).nonzero().flatten().tolist())
            self._join(systems)

    def _search_all(self, systems: Systems, chosen: Sequence[int]) -> None:
        positions, cells = systems.split(systems.positions), systems.cells.cpu().numpy().copy()
        for system in chosen:
            self._search(systems, system, positions[system], cells[system])

    def _used(self, systems: Systems) -> Any:
        """Return how much of the skin of each system is used up, ``(S,)``: beyond 1 its list may lack a pair.

        Two atoms within the cutoff now were at most ``s (cutoff + 2 d)`` apart when the neighbours were searched: ``d``
        is the largest displacement beyond that with the cell, ``s`` the largest stretch of the way back.
        """
        import torch

        if torch.equal(systems.cells, self._cells):
            squares = ((systems.positions - self._positions) ** 2).sum(dim=1)
            return 2 * systems.per_system(squares, 'amax').sqrt() / _SKIN
        cells, old = (systems.tensor(_complete(x)) for x in (systems.cells, self._cells))
        forth = torch.linalg.solve(old, cells)
        back = torch.linalg.matrix_norm(torch.linalg.solve(cells, old), ord=2)
        here = (self._positions[:, None, :] @ forth[systems.system]).squeeze(1)
        farthest = systems.per_system(((systems.positions - here) ** 2).sum(dim=1), 'amax').sqrt()
        return (back * (self._cutoff + 2 * farthest) - self._cutoff) / _SKIN

    def _join(self, systems: Systems) -> None:
        """Put the lists of all systems together."""
        lists = [self._lists[index] for index, _ in self._members]
        starts = systems.ends - systems.sizes
        edges = [item.edges + start for item, start in zip(lists, starts, strict=True)]
        self._edges = systems.tensor(np.concatenate(edges, axis=1))
        self._unit = systems.tensor(np.concatenate([item.shifts for item in lists]))
        self._system = systems.system[self._edges[0]]
        self._positions = systems.tensor(np.concatenate([item.positions for item in lists]))
        self._cells = systems.tensor(np.array([item.cell for item in lists]))
        self._shifts = (self._unit[:, None, :] @ self._cells[self._system]).squeeze(1)


def _complete(cells: Any) -> NDArray[np.float64]:
    """Return cells whose missing vectors, those of molecules and slabs without a box, are replaced."""
    from ase.geometry import complete_cell

    whole: NDArray[np.float64] = np.array([complete_cell(cell) for cell in cells.cpu().numpy()])
    return whole
