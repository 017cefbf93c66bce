"""Several systems side by side, atom by atom in one tensor, as batched models want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.trajectory import Replica

__all__ = ('Systems',)


class Systems:
    """``S`` systems with ``A`` atoms in all. Coordinates are in double precision, whatever the model's."""

    #: Names of the tensors with a row per atom and per system: :meth:`keep` and :meth:`add` take care of all.
    ATOMIC: ClassVar[tuple[str, ...]] = ('positions',)
    SYSTEMIC: ClassVar[tuple[str, ...]] = ('cells',)

    positions: Any  #: ``(A, 3)``, Å, not wrapped
    cells: Any  #: ``(S, 3, 3)``, Å, vectors in rows

    def __init__(self, replicas: Sequence[Replica], device: Any = 'cpu') -> None:
        self.device = device
        self.replicas = list(replicas)
        for name, rows in self.rows(replicas).items():
            setattr(self, name, rows)
        self._layout()

    def tensor(self, array: Any) -> Any:
        """Return a copy of ``array`` as a tensor on the device."""
        import torch

        return torch.tensor(array, device=self.device)

    def rows(self, replicas: Sequence[Replica]) -> dict[str, Any]:
        """Return the rows of new replicas, by name."""
        return {
            'positions': self.tensor(np.concatenate([replica.positions for replica in replicas])),
            'cells': self.tensor(np.array([replica.cell for replica in replicas], dtype=np.float64)),
        }

    def _layout(self) -> None:
        """Recompute what depends on which replicas are here."""
        self.sizes = np.array([len(replica.numbers) for replica in self.replicas], dtype=np.int64)
        self.ends: NDArray[np.int64] = np.cumsum(self.sizes)
        self.pbc = np.array([replica.pbc for replica in self.replicas], dtype=np.bool_).reshape(-1, 3)
        numbers = [replica.numbers for replica in self.replicas] or [np.zeros(0, dtype=np.int64)]
        self.numbers: NDArray[np.int64] = np.concatenate(numbers)
        self.system = self.tensor(np.repeat(np.arange(len(self.sizes)), self.sizes))
        self.masses = self.tensor(
            np.concatenate([replica.masses for replica in self.replicas] or [np.zeros(0)])[:, None]
        )

    def keep(self, systems: Sequence[int]) -> None:
        """Drop all but these systems."""
        import torch

        chosen = self.tensor(np.asarray(systems, dtype=np.int64))
        mask = torch.isin(self.system, chosen)
        for name in self.ATOMIC:
            setattr(self, name, getattr(self, name)[mask])
        for name in self.SYSTEMIC:
            setattr(self, name, getattr(self, name)[chosen])
        self.replicas = [self.replicas[i] for i in systems]
        self._layout()

    def add(self, replicas: Sequence[Replica]) -> None:
        """Append systems."""
        import torch

        for name, rows in self.rows(replicas).items():
            setattr(self, name, torch.cat([getattr(self, name), rows]))
        self.replicas += replicas
        self._layout()

    def per_system(self, values: Any, how: str) -> Any:
        """Reduce one value per atom to one per system; ``how`` is ``sum`` or ``amax`` (NaN wins)."""
        import torch

        result = torch.zeros(len(self.replicas), dtype=values.dtype, device=values.device)
        return result.scatter_reduce(0, self.system, values, how)

    def split(self, values: Any) -> list[NDArray[np.float64]]:
        """Return copies of the rows of each system."""
        return np.split(values.cpu().numpy().copy(), self.ends[:-1])
