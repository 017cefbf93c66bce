"""Collective variables of all systems of a batch, and their derivatives by the positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray

from aiida_mlipal.runners.committee import evaluate, mean_invariants
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.neighbours import Neighbours
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.science.collective_variables import (
    Angle,
    CollectiveVariable,
    Coordination,
    Dihedral,
    Distance,
    Geometry,
    Latent,
    selected_atoms,
)
from aiida_mlipal.science.configurations import Configurations

__all__ = ('Latents', 'Variable', 'make_variable')

#: Coordination counts end at so many radii.
_REACH: Final = 3.0
#: Rattled copies whose descriptors are looked at, over all starts.
_N_COPIES: Final = 64
_BATCH_ATOMS: Final = 256
#: Components that vary less than this part of the first are round-off.
_LEAST: Final = 1e-4


class Variable(Protocol):
    """One variable of all systems of a batch."""

    def __call__(self, positions: Any, systems: Systems) -> Any:
        """Return the variable of each system, ``(S,)``, differentiable.

        :param positions: ``(A, 3)``, equal to those of ``systems``; what is differentiated by.
        """


def nearest_images(vectors: Any, systems: Systems) -> Any:
    """Return vectors ``(S, n, 3)`` between atoms, each to the nearest periodic image.

    After rounding, all neighbouring images are tried, so that skewed cells are right too.
    """
    import torch

    with torch.no_grad():
        cells = systems.tensor(np.array([complete_cell(cell) for cell in systems.cells.cpu().numpy()]))
        around = torch.cartesian_prod(*(3 * [torch.arange(-1, 2, device=vectors.device)])).to(vectors.dtype)
        whole = -torch.round(vectors @ torch.linalg.inv(cells))
        offsets = ((whole[:, :, None, :] + around) * systems.tensor(systems.pbc)[:, None, None, :]) @ cells[:, None]
        best = torch.linalg.vector_norm(vectors[:, :, None, :] + offsets, dim=-1).argmin(dim=-1)
        offset = torch.gather(offsets, 2, best[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]
    return vectors + offset


def _distance(bonds: Any) -> Any:
    import torch

    return torch.linalg.vector_norm(bonds[:, 0], dim=-1)


def _angle(bonds: Any) -> Any:
    """Angle in degrees, by an arctangent: the derivative of the arccosine is infinite at 0 and 180 degrees."""
    import torch

    first, second = -bonds[:, 0], bonds[:, 1]
    sine = torch.linalg.vector_norm(torch.linalg.cross(first, second), dim=-1)
    return torch.rad2deg(torch.atan2(sine, (first * second).sum(dim=-1)))


def _dihedral(bonds: Any) -> Any:
    """Dihedral angle in degrees (Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996), for the sign: IUPAC's)."""
    import torch

    first, second, third = bonds[:, 0], bonds[:, 1], bonds[:, 2]
    normals = torch.linalg.cross(first, second), torch.linalg.cross(second, third)
    length = torch.linalg.vector_norm(second, dim=-1)
    return torch.rad2deg(torch.atan2(length * (first * normals[1]).sum(dim=-1), (normals[0] * normals[1]).sum(dim=-1)))


class _Chain:
    """A distance, an angle or a dihedral angle, from the vectors along a chain of atoms."""

    def __init__(self, atoms: Sequence[int], function: Callable[[Any], Any]) -> None:
        self._atoms, self._function = np.asarray(atoms), function

    def __call__(self, positions: Any, systems: Systems) -> Any:
        """See :class:`Variable`."""
        chains = positions[systems.tensor((systems.ends - systems.sizes)[:, None] + self._atoms)]
        return self._function(nearest_images(chains[:, 1:] - chains[:, :-1], systems))


class _Coordination:
    """A mean coordination number."""

    def __init__(self, variable: Coordination) -> None:
        self._variable = variable
        self._neighbours = Neighbours(_REACH * variable.radius)

    def __call__(self, positions: Any, systems: Systems) -> Any:
        """See :class:`Variable`."""
        (first, second), _, shifts = self._neighbours(systems)
        vectors = positions[second] - positions[first] + shifts
        count = 1 / (1 + ((vectors**2).sum(dim=1) / self._variable.radius**2) ** 3)
        end = 1 / (1 + _REACH**6)
        centres, neighbours = (self._weights(name, systems) for name in ('centres', 'neighbours'))
        counts = centres[first] * neighbours[second] * (count - end) / (1 - end)
        total = positions.new_zeros(len(systems.replicas)).index_add(0, systems.system[first], counts)
        return total / systems.per_system(centres, 'sum')

    def _weights(self, name: str, systems: Systems) -> Any:
        """Return 1 for the atoms that are meant, 0 for the others."""
        selection, weights = getattr(self._variable, name), []
        for replica in systems.replicas:
            mask = np.zeros(len(replica.numbers))
            mask[selected_atoms(selection, replica.numbers)] = 1
            weights.append(mask)
        return systems.tensor(np.concatenate(weights))


@dataclass(frozen=True, eq=False)
class Latents:
    """Principal components of the mean invariant node features of a model.

    ``mean`` ``(D,)`` of the rattled copies of all starts, and ``components`` ``(D, n)``: in units of their standard
    deviations.
    """

    forces: MaceForces
    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    @classmethod
    def of(cls, starts: Configurations, forces: MaceForces, *, rattle: float, key: Sequence[int]) -> Latents:
        """Return the components of the copies of ``starts``; ``key`` is that of their random displacements.

        The spread is that about the mean of each start: the difference between starts is not a coordinate.
        """
        model = forces.models[0]
        n_each = max(2, -(-_N_COPIES // len(starts)))
        rows: list[NDArray[np.float64]] = []
        for start in range(len(starts)):
            atoms = slice(starts.offsets[start], starts.offsets[start + 1])
            normal = np.random.default_rng([*key, start]).standard_normal((n_each, atoms.stop - atoms.start, 3))
            copies = Configurations.from_atoms(
                [
                    Atoms(
                        numbers=starts.numbers[atoms],
                        positions=starts.positions[atoms] + rattle * displacement,
                        cell=starts.cell[start],
                        pbc=starts.pbc[start],
                    )
                    for displacement in normal
                ]
            )
            rows.append(evaluate(copies, [model], batch_atoms=_BATCH_ATOMS).descriptors)
        descriptors = np.concatenate(rows)
        centred = np.concatenate([some - some.mean(axis=0) for some in rows])
        _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
        # The sign of a singular vector is arbitrary: its largest entry is positive.
        largest = np.abs(vectors).argmax(axis=1)
        vectors *= np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
        deviations = singular / np.sqrt(len(centred) - len(rows))
        used = deviations > _LEAST * deviations[0]
        return cls(forces, descriptors.mean(axis=0), (vectors[used] / deviations[used, None]).T)

    def variable(self, component: int) -> Variable:
        """Return one component as a variable.

        :raises ValueError: if there are not so many.
        """
        n_components = self.components.shape[1]
        if component >= n_components:
            raise ValueError(
                f'the latent `component` {component} does not exist: the rattled copies of the starts vary along '
                f'{n_components} only, counted from 0.'
            )
        return _Latent(self, component)


class _Latent:
    def __init__(self, latents: Latents, component: int) -> None:
        self._latents, self._component = latents, component

    def __call__(self, positions: Any, systems: Systems) -> Any:
        """See :class:`Variable`."""
        mace = self._latents.forces
        graph = mace.graph(systems)
        # A copy: the model marks its input as one to differentiate by.
        graph['positions'] = positions.to(graph['positions'].dtype, copy=True)
        invariants = mean_invariants(mace.models[0](graph, compute_force=False), mace.models[0], graph)
        mean, axis = self._latents.mean, self._latents.components[:, self._component]
        return (invariants - systems.tensor(mean)) @ systems.tensor(axis)


def make_variable(variable: CollectiveVariable, latents: dict[float, Latents]) -> Variable:
    """Return what computes a variable; ``latents`` by the size of their rattling."""
    if isinstance(variable, Coordination):
        return _Coordination(variable)
    if isinstance(variable, Latent):
        return latents[variable.rattle].variable(variable.component)
    assert isinstance(variable, Geometry)
    functions = {Distance.TYPE: _distance, Angle.TYPE: _angle, Dihedral.TYPE: _dihedral}
    return _Chain(variable.atoms, functions[variable.TYPE])
