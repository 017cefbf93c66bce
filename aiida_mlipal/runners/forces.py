"""Energies, forces and stresses of many systems in one call of a MACE model.

The model is called directly and not through TorchSim's wrapper (0.3.0), which searches all neighbours anew in each call
and knows one flag for the periodicity of all directions and all systems: a slab would silently become a molecule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.committee import model_elements
from aiida_mlipal.runners.last_layer import ATTRIBUTE, spread
from aiida_mlipal.runners.neighbours import Neighbours
from aiida_mlipal.runners.systems import Systems

__all__ = ('Forces', 'MaceForces', 'Prediction')


class Prediction(NamedTuple):
    """What acts on a batch, in double precision."""

    energies: Any  #: ``(S,)``, eV
    forces: Any  #: ``(A, 3)``, eV/Å
    stresses: Any = None  #: ``(S, 3, 3)``, eV/Å³, positive under tension; None if nobody asked for it


class Forces(Protocol):
    """Whatever moves a batch: a model, or a model with a bias around it."""

    device: Any  #: where the tensors of the batch have to be

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        """Return energies, forces and, if asked for, stresses at the present positions and cells.

        Systems come and go between calls; ``systems.replicas[i].index`` tells them apart.
        """

    def state(self, systems: Systems) -> dict[str, NDArray[Any]]:
        """Return what the next calls for these systems depend on beside positions and cells, to the last bit."""

    def restore(self, systems: Systems, state: dict[str, NDArray[Any]]) -> None:
        """Take up a :meth:`state`."""


class MaceForces:
    """The first of a committee moves the batch; all members tell how much they differ."""

    def __init__(self, models: Sequence[Any]) -> None:
        parameter = next(models[0].parameters())
        self.models = list(models)
        self.device, self._dtype = parameter.device, parameter.dtype
        self._elements = np.array(model_elements(models[0]))
        self.neighbours = Neighbours(float(models[0].r_max))
        self._nodes: tuple[Any, Any] = None, None

    def graph(self, systems: Systems) -> dict[str, Any]:
        """Return MACE's input, in the model's precision; ``positions`` are a fresh leaf of torch's graph."""
        edges, units, shifts = self.neighbours(systems)
        return {
            'node_attrs': self._one_hot(systems),
            'positions': systems.positions.to(self._dtype, copy=True),
            'cell': systems.cells.reshape(-1, 3).to(self._dtype),
            'pbc': systems.tensor(systems.pbc),
            'batch': systems.system,
            'ptr': systems.tensor(np.concatenate([[0], systems.ends])),
            'edge_index': edges,
            'unit_shifts': units.to(self._dtype),
            'shifts': shifts.to(self._dtype),
        }

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        """See :class:`Forces`. Energies are summed over the atoms in double precision."""
        output = self.models[0](self.graph(systems), compute_stress=stress)
        return Prediction(
            energies=systems.per_system(output['node_energy'].detach().double(), 'sum'),
            forces=output['forces'].detach().double(),
            stresses=output['stress'].detach().double() if stress else None,
        )

    def state(self, systems: Systems) -> dict[str, NDArray[Any]]:
        """See :class:`Forces`: the order of the neighbours, in which their contributions are summed."""
        positions, cells = self.neighbours.references(systems)
        return {'reference_positions': positions, 'reference_cells': cells}

    def restore(self, systems: Systems, state: dict[str, NDArray[Any]]) -> None:
        """See :class:`Forces`."""
        self.neighbours.search(systems, state['reference_positions'], state['reference_cells'])

    @property
    def has_uncertainties(self) -> bool:
        """Whether there is anything that tells how sure the forces are."""
        return len(self.models) > 1 or hasattr(self.models[0], ATTRIBUTE)

    def uncertainties(self, systems: Systems) -> Any:
        """Return the largest uncertainty of an atom's force in each system, ``(S,)``, eV/Å.

        As :func:`aiida_mlipal.runners.committee.evaluate` reports it: the spread of the members, or what one model
        carries along about its last layer; NaN for a single model that carries nothing.
        """
        import torch

        graph = self.graph(systems)
        if len(self.models) == 1:
            own = spread(self.models[0], graph)
            nothing = np.full(len(systems.numbers), np.nan)
            return systems.per_system(systems.tensor(nothing if own is None else own[1]), 'amax')
        forces = torch.stack([model({**graph})['forces'].detach().double() for model in self.models])
        return systems.per_system(forces.var(dim=0, correction=1).mean(dim=1).sqrt(), 'amax')

    def _one_hot(self, systems: Systems) -> Any:
        """Return which of the model's elements each atom is."""
        numbers, encoded = self._nodes
        if numbers is not systems.numbers:
            encoded = systems.tensor(systems.numbers[:, None] == self._elements).to(self._dtype)
            self._nodes = systems.numbers, encoded
        return encoded
