"""The bias of well-tempered metadynamics, and the hills that each replica has left (see the plan for the source)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import units
from numpy.typing import NDArray

from aiida_mlipal.runners.bias.collective_variables import Variable
from aiida_mlipal.runners.forces import Forces, Prediction
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.science.plan_metadynamics import MetadynamicsPlan

__all__ = ('Metadynamics',)


@dataclass(eq=False)
class _Hills:
    """The hills of one replica: values of the variables, and heights in eV."""

    centres: list[list[float]] = field(default_factory=list)
    heights: list[float] = field(default_factory=list)


class Metadynamics:
    """Forces with the bias of hills around them; the hills of a replica are its own."""

    def __init__(self, forces: Forces, variables: Sequence[Variable], plan: MetadynamicsPlan) -> None:
        self._forces, self._variables, self._plan = forces, list(variables), plan
        self.device = forces.device
        self._widths = [variable.width for variable in plan.read_variables()]
        self._periods = [variable.PERIOD for variable in plan.read_variables()]
        self._hills: dict[int, _Hills] = {}
        self._layout: list[tuple[int, int]] = []
        self._all: tuple[Any, Any, Any]

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        """See :class:`aiida_mlipal.runners.forces.Forces`; there is no stress."""
        import torch

        assert not stress, 'hills move atoms, not cells'
        energies, forces, _ = self._forces(systems)
        positions = systems.positions.detach().clone().requires_grad_(True)
        bias = self._bias(self.values(positions, systems), systems)
        (gradient,) = torch.autograd.grad(bias.sum(), positions)
        return Prediction(energies + bias.detach(), forces - gradient)

    def values(self, positions: Any, systems: Systems) -> Any:
        """Return the variables of each system, ``(S, D)``, differentiable by ``positions``."""
        import torch

        return torch.stack([variable(positions, systems) for variable in self._variables], dim=1)

    def deposit(self, systems: Systems) -> None:
        """Add a hill where each replica is, the lower the more bias there is."""
        import torch

        with torch.no_grad():
            values = self.values(systems.positions, systems)
            bias = self._bias(values, systems).tolist()
        for replica, centre, energy in zip(systems.replicas, values.tolist(), bias, strict=True):
            hills = self._hills[replica.index]
            tempering = units.kB * replica.temperature * (self._plan.bias_factor - 1)
            hills.centres.append(centre)
            hills.heights.append(self._plan.height * math.exp(-energy / tempering))

    def state(self, systems: Systems) -> dict[str, NDArray[Any]]:
        """See :class:`aiida_mlipal.runners.forces.Forces`: the hills of all replicas, also of those that have ended."""
        owners = [index for index, own in self._hills.items() for _ in own.heights]
        centres = [centre for own in self._hills.values() for centre in own.centres]
        heights = [height for own in self._hills.values() for height in own.heights]
        return {
            **self._forces.state(systems),
            'hill_owners': np.array(owners, dtype=np.int64),
            'hill_centres': np.array(centres).reshape(-1, len(self._widths)),
            'hill_heights': np.array(heights, dtype=np.float64),
        }

    def restore(self, systems: Systems, state: dict[str, NDArray[Any]]) -> None:
        """See :class:`aiida_mlipal.runners.forces.Forces`."""
        self._forces.restore(systems, state)
        self._hills, self._layout = {}, []
        columns = (state[f'hill_{name}'].tolist() for name in ('owners', 'centres', 'heights'))
        for owner, centre, height in zip(*columns, strict=True):
            hills = self._hills.setdefault(owner, _Hills())
            hills.centres.append(centre)
            hills.heights.append(height)

    def hills(self, index: int) -> dict[str, Any]:
        """Return the hills of a replica as plain values."""
        hills = self._hills.get(index, _Hills())
        return {'centres': hills.centres, 'heights': hills.heights}

    def _bias(self, values: Any, systems: Systems) -> Any:
        """Return the bias of each system in eV, ``(S,)``, at ``values`` of the variables, ``(S, D)``."""
        import torch

        system, centres, heights = self._joined(systems)
        distances = values[system] - centres
        periods, widths = values.new_tensor(self._periods), values.new_tensor(self._widths)
        turns = torch.round(distances.detach() / torch.where(periods > 0, periods, 1))
        distances = (distances - turns * periods) / widths
        bias = values.new_zeros(len(systems.replicas))
        return bias.index_add(0, system, heights * torch.exp(-0.5 * (distances**2).sum(dim=1)))

    def _joined(self, systems: Systems) -> tuple[Any, Any, Any]:
        """Return the hills of all systems, one after the other: whose they are, their centres and heights.

        Replicas may have different numbers of hills. They are put together anew where one came or went.
        """
        mine = [self._hills.setdefault(replica.index, _Hills()) for replica in systems.replicas]
        layout = [(replica.index, len(own.heights)) for replica, own in zip(systems.replicas, mine, strict=True)]
        if layout != self._layout:
            self._layout = layout
            counts = [count for _, count in layout]
            centres = np.array([centre for own in mine for centre in own.centres]).reshape(-1, len(self._widths))
            heights = np.array([height for own in mine for height in own.heights], dtype=np.float64)
            system = np.repeat(np.arange(len(mine)), counts)
            self._all = systems.tensor(system), systems.tensor(centres), systems.tensor(heights)
        return self._all
