"""Forces of many systems in one call of a MACE model: through TorchSim where it can, else through MACE's own pipeline.

TorchSim 0.3 knows one flag for the periodicity of all directions and all systems of a batch (a slab would silently
become a molecule), hence the second way, which is slower and handles every periodicity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.committee import graphs

__all__ = ('Forces', 'GraphForces', 'TorchSimForces', 'make_forces')


class Forces(Protocol):
    """Energies and forces of the systems of one batch, whose atoms, cells and periodicity do not change."""

    def __call__(self, positions: Any) -> tuple[Any, Any]:
        """Return energies ``(n_systems,)`` in eV and forces ``(n_atoms, 3)`` in eV/Å as double-precision tensors.

        :param positions: double-precision tensor ``(n_atoms, 3)`` in Å, wrapped or not.
        """

    def keep(self, systems: Sequence[int]) -> None:
        """Drop all but these systems."""


class TorchSimForces:
    """One TorchSim batch: every system is periodic in all directions, or none is."""

    def __init__(
        self, model: Any, numbers: Sequence[NDArray[np.int64]], cells: NDArray[np.float64], periodic: bool
    ) -> None:
        import torch
        from torch_sim import SimState
        from torch_sim.models.mace import MaceModel

        parameter = next(model.parameters())
        device, dtype = parameter.device, parameter.dtype
        sizes = torch.tensor([len(item) for item in numbers], device=device)
        atomic_numbers = torch.as_tensor(np.concatenate(numbers), device=device)
        self._state = SimState(
            positions=torch.zeros((len(atomic_numbers), 3), dtype=dtype, device=device),
            masses=torch.ones(len(atomic_numbers), dtype=dtype, device=device),
            # TorchSim keeps cell vectors in columns.
            cell=torch.as_tensor(cells, dtype=dtype, device=device).mT.contiguous(),
            pbc=periodic,
            atomic_numbers=atomic_numbers,
            system_idx=torch.repeat_interleave(torch.arange(len(numbers), device=device), sizes),
        )
        # One model object per batch: it keeps the batch's layout, and renews it only when the atomic numbers change.
        self._model = MaceModel(model, device=device, dtype=dtype, compute_stress=False)

    def __call__(self, positions: Any) -> tuple[Any, Any]:
        """See :class:`Forces`."""
        self._state.positions = positions.to(self._state.dtype, copy=True)
        output = self._model(self._state)
        return output['energy'].double(), output['forces'].double()

    def keep(self, systems: Sequence[int]) -> None:
        """See :class:`Forces`."""
        self._state.positions = self._state.positions.detach()
        self._state = self._state[list(systems)]


class GraphForces:
    """Any mixture of periodicities, through MACE's own data pipeline."""

    def __init__(
        self,
        model: Any,
        numbers: Sequence[NDArray[np.int64]],
        cells: NDArray[np.float64],
        pbc: NDArray[np.bool_],
    ) -> None:
        self._model, self._numbers, self._cells, self._pbc = model, list(numbers), cells, pbc

    def __call__(self, positions: Any) -> tuple[Any, Any]:
        """See :class:`Forces`."""
        ends = np.cumsum([len(item) for item in self._numbers])
        split = np.split(positions.cpu().numpy(), ends[:-1])
        output = self._model(graphs(self._numbers, split, self._cells, self._pbc, self._model))
        return output['energy'].detach().double(), output['forces'].detach().double()

    def keep(self, systems: Sequence[int]) -> None:
        """See :class:`Forces`."""
        self._numbers = [self._numbers[i] for i in systems]
        self._cells, self._pbc = self._cells[systems], self._pbc[systems]


def make_forces(
    model: Any, numbers: Sequence[NDArray[np.int64]], cells: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> Forces:
    """Return the forces of a batch of systems: TorchSim's, if all have the same periodicity in all directions."""
    if pbc.all() or not pbc.any():
        return TorchSimForces(model, numbers, cells, periodic=bool(pbc.all()))
    return GraphForces(model, numbers, cells, pbc)
