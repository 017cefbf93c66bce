"""Replicas that move together, each with its own noise, temperature and end.

Velocities and noise are drawn from streams keyed by seed, iteration, replica and step, never from one generator for the
batch, so that neither the batch nor a neighbour that stops changes a trajectory. The total momentum of a replica is
zero and stays so: the noise on it is projected out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from ase import units
from numpy.typing import NDArray

from aiida_mlipal.runners.forces import Forces
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Replica

__all__ = ('Langevin', 'Moving', 'VelocityVerlet')


def unit_velocities(replica: Replica, key: Sequence[int], n_steps: int) -> NDArray[np.float64]:
    """Return thermal velocities at 1 K without total momentum, shape ``(N, n_steps, 3)``, in ASE's units."""
    masses = replica.masses[:, None, None]
    normal = np.random.default_rng([*key]).standard_normal((n_steps, len(masses), 3)).swapaxes(0, 1)
    velocities = normal * np.sqrt(units.kB / masses)
    result: NDArray[np.float64] = velocities - (masses * velocities).sum(axis=0, keepdims=True) / masses.sum()
    return result


class Moving(Systems, ABC):
    """Systems with velocities, in ASE's units, and what acts on them at their present positions.

    :param time_step: fs.
    :param friction: 1/fs; how fast the bath acts.
    :param key: seed and iteration, the beginning of every random stream's key.
    :param strain: logarithmic strain of each step, ``(3, 3)``: the cell is deformed, and the positions with it.
    """

    ATOMIC: ClassVar[tuple[str, ...]] = (*Systems.ATOMIC, 'velocities', 'forces')
    SYSTEMIC: ClassVar[tuple[str, ...]] = (*Systems.SYSTEMIC, 'energies', 'stresses', 'targets', 'steps')
    NEEDS_STRESS: ClassVar[bool] = False

    velocities: Any  #: ``(A, 3)``
    forces: Any  #: ``(A, 3)``, eV/Å
    energies: Any  #: ``(S,)``, eV, of the model and of any bias
    stresses: Any  #: ``(S, 3, 3)``, eV/Å³; zero unless the ensemble needs them
    targets: Any  #: ``(S,)``, temperatures of the bath in K; whoever changes them scales the velocities
    steps: Any  #: ``(S,)``, steps done

    def __init__(
        self,
        replicas: Sequence[Replica],
        forces: Forces,
        *,
        time_step: float,
        friction: float,
        key: Sequence[int],
        strain: NDArray[np.float64] | None = None,
    ) -> None:
        self._act, self._key = forces, list(key)
        self._time, self._friction = time_step * units.fs, friction / units.fs
        super().__init__(replicas, forces.device)
        self._strain = None if strain is None else self.tensor(strain)
        self.evaluate()

    def rows(self, replicas: Sequence[Replica]) -> dict[str, Any]:
        """See :meth:`Systems.rows`."""
        n_atoms = sum(len(replica.numbers) for replica in replicas)
        velocities = [
            np.sqrt(replica.temperature) * unit_velocities(replica, [*self._key, replica.index, 0], 1)[:, 0]
            for replica in replicas
        ]
        return {
            **super().rows(replicas),
            'velocities': self.tensor(np.concatenate(velocities)),
            'forces': self.tensor(np.zeros((n_atoms, 3))),
            'energies': self.tensor(np.zeros(len(replicas))),
            'stresses': self.tensor(np.zeros((len(replicas), 3, 3))),
            'targets': self.tensor([float(replica.temperature) for replica in replicas]).double(),
            'steps': self.tensor([0] * len(replicas)),
        }

    def _layout(self) -> None:
        super()._layout()
        self.dof = self.tensor(np.maximum(3.0 * self.sizes - 3, 1))

    def add(self, replicas: Sequence[Replica]) -> None:
        """See :meth:`Systems.add`."""
        super().add(replicas)
        self.evaluate()

    def evaluate(self) -> None:
        """Compute what acts on the atoms where they are."""
        self.energies, self.forces, stresses = self._act(self, stress=self.NEEDS_STRESS)
        if stresses is not None:
            self.stresses = stresses

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what it takes to go on from here, by name."""
        own = {name: getattr(self, name).cpu().numpy() for name in (*self.ATOMIC, *self.SYSTEMIC)}
        return own | {f'act_{name}': value for name, value in self._act.state(self).items()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from the :meth:`state` of the same replicas."""
        for name in (*self.ATOMIC, *self.SYSTEMIC):
            setattr(self, name, self.tensor(state[name]))
        act = {name.removeprefix('act_'): value for name, value in state.items() if name.startswith('act_')}
        self._act.restore(self, act)

    def start_block(self, n_steps: int) -> None:
        """Prepare the next ``n_steps`` steps. Between blocks systems may be added."""

    @abstractmethod
    def step(self) -> None:
        """Move all replicas by one time step."""

    def kinetic_energies(self) -> Any:
        """Kinetic energy of each replica in eV."""
        return self.per_system(0.5 * self.masses[:, 0] * (self.velocities**2).sum(dim=1), 'sum')

    def temperatures(self) -> Any:
        """Return the kinetic temperature of each replica in K, from 3 N - 3 degrees of freedom."""
        return 2 * self.kinetic_energies() / (self.dof * units.kB)

    def max_forces(self) -> Any:
        """Largest force on an atom of each replica in eV/Å, NaN where one is not finite."""
        return self.per_system((self.forces**2).sum(dim=1), 'amax').sqrt()

    def runaways(self) -> dict[int, str]:
        """Return the systems that cannot take another step whatever their forces, and why."""
        return {}

    def _kick(self) -> None:
        """Let the forces act for half a step."""
        self.velocities = self.velocities + 0.5 * self._time * self.forces / self.masses

    def _drift(self) -> None:
        """Move for half a step."""
        self.positions = self.positions + 0.5 * self._time * self.velocities

    def _arrive(self) -> None:
        """Deform the cell, if that is asked for, and compute what acts at the new positions."""
        if self._strain is not None:
            self.deform(self._strain.expand(len(self.replicas), 3, 3))
        self.evaluate()

    def deform(self, strains: Any) -> None:
        """Deform cells and positions by the logarithmic strains ``(S, 3, 3)``."""
        import torch

        forth = torch.linalg.matrix_exp(strains)
        self.cells = self.cells @ forth
        self.positions = (self.positions[:, None, :] @ forth[self.system]).squeeze(1)


class VelocityVerlet(Moving):
    """Newton's equations: the energy is conserved."""

    def step(self) -> None:
        """Half a kick, a drift, half a kick."""
        self._kick()
        self._drift()
        self._drift()
        self._arrive()
        self._kick()


class Langevin(Moving):
    """BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34); one force call per step.

    Half a kick, half a drift, the exact Ornstein-Uhlenbeck step, half a drift, half a kick.
    """

    _noise: Any = None

    def start_block(self, n_steps: int) -> None:
        """Draw the noise of the next steps."""
        kicks = [
            unit_velocities(replica, [*self._key, replica.index, 1 + step], n_steps)
            for replica, step in zip(self.replicas, self.steps.tolist(), strict=True)
        ]
        self._noise, self._at = self.tensor(np.concatenate(kicks)), 0

    def keep(self, systems: Sequence[int]) -> None:
        """See :meth:`Systems.keep`."""
        if self._noise is not None:
            kept = np.isin(self.system.cpu().numpy(), systems)
            self._noise = self._noise[self.tensor(kept)]
        super().keep(systems)

    def step(self) -> None:
        """Move all replicas by one time step."""
        self._kick()
        self._drift()
        self._bath()
        self._drift()
        self._arrive()
        self._kick()

    def _bath(self) -> None:
        """Let the bath act for a whole step."""
        damping = float(np.exp(-self._friction * self._time))
        strength = (np.sqrt(1 - damping**2) * self.targets.sqrt())[self.system][:, None]
        self.velocities = damping * self.velocities + strength * self._noise[:, self._at]
        self._at += 1
