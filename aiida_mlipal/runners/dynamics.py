"""Langevin dynamics of many replicas at once, each with its own noise, temperature and end.

The integrator is BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34): half a kick, half a drift, the
exact Ornstein-Uhlenbeck step, half a drift, half a kick; one force call per step. Without friction it is velocity
Verlet. The total momentum of a replica is zero and stays so: the noise on it is projected out.

Velocities and noise are drawn from streams keyed by seed, iteration, replica and block of steps, never from one
generator for the batch, so that neither the batch nor a neighbour that stops changes a trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from ase import units
from numpy.typing import NDArray

from aiida_mlipal.runners.bounds import NOT_FINITE, can_be_labelled, out_of_bounds
from aiida_mlipal.runners.forces import make_forces
from aiida_mlipal.runners.trajectory import Frame, Replica, Trajectory
from aiida_mlipal.science.exploration_plans import DynamicsPlan
from aiida_mlipal.science.exploration_settings import ExplorationSettings

__all__ = ('Langevin', 'propagate')

#: Forces so many times the allowed maximum end a replica at once, not only at the next saved frame: its coordinates
#: would soon be meaningless, and one system's overflow must not reach its neighbours.
_HARD_FORCE: Final = 20.0


def normal_velocities(replica: Replica, key: Sequence[int], n_steps: int) -> NDArray[np.float64]:
    """Return thermal velocities without total momentum, shape ``(n_steps, N, 3)``, in ASE's units."""
    masses = replica.masses[:, None]
    normal = np.random.default_rng([*key]).standard_normal((n_steps, len(masses), 3))
    velocities = normal * np.sqrt(units.kB * replica.temperature / masses)
    result: NDArray[np.float64] = velocities - (masses * velocities).sum(axis=1, keepdims=True) / masses.sum()
    return result


class Langevin:
    """Replicas that move together. Tensors are in double precision, whatever the model's.

    :param key: seed and iteration, the beginning of every random stream's key.
    """

    def __init__(
        self, replicas: Sequence[Replica], model: Any, *, time_step: float, friction: float, key: Sequence[int]
    ) -> None:
        import torch

        self.replicas, self._key = list(replicas), list(key)
        self._device = next(model.parameters()).device
        self._force_call = make_forces(
            model,
            [replica.numbers for replica in replicas],
            np.array([replica.cell for replica in replicas]),
            np.array([replica.pbc for replica in replicas]),
        )
        self._time = time_step * units.fs
        self._damping = float(np.exp(-friction * time_step))
        self.positions = self._tensor(np.concatenate([replica.positions for replica in replicas]))
        self.velocities = self._tensor(
            np.concatenate([normal_velocities(replica, [*key, replica.index, 0], 1)[0] for replica in replicas])
        )
        self._layout()
        self.energies, self.forces = self._force_call(self.positions)
        self._torch = torch

    def _tensor(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.as_tensor(array, device=self._device)

    def _layout(self) -> None:
        """Recompute what depends on which replicas are here."""
        sizes = np.array([len(replica.numbers) for replica in self.replicas])
        self.system = self._tensor(np.repeat(np.arange(len(sizes)), sizes))
        self._masses = self._tensor(np.concatenate([replica.masses for replica in self.replicas]))[:, None]
        self._dof = self._tensor(np.maximum(3.0 * sizes - 3, 1))
        self.ends: NDArray[np.int64] = np.cumsum(sizes)

    def noise(self, block: int, n_steps: int) -> Any:
        """Return the velocities that the bath adds in ``n_steps`` steps, shape ``(n_steps, n_atoms, 3)``."""
        kicks = [
            normal_velocities(replica, [*self._key, replica.index, block + 1], n_steps) for replica in self.replicas
        ]
        return self._tensor(np.sqrt(1 - self._damping**2) * np.concatenate(kicks, axis=1))

    def step(self, noise: Any) -> None:
        """Move all replicas by one time step; ``noise`` has shape ``(n_atoms, 3)``."""
        half = 0.5 * self._time
        self.velocities += half * self.forces / self._masses
        self.positions += half * self.velocities
        self.velocities *= self._damping
        self.velocities += noise
        self.positions += half * self.velocities
        self.energies, self.forces = self._force_call(self.positions)
        self.velocities += half * self.forces / self._masses

    def per_system(self, values: Any, how: str) -> Any:
        """Reduce one value per atom to one per replica; ``how`` is ``sum`` or ``amax`` (NaN wins)."""
        result = self._torch.zeros(len(self.replicas), dtype=values.dtype, device=self._device)
        return result.scatter_reduce(0, self.system, values, how)

    def kinetic_energies(self) -> Any:
        """Kinetic energy of each replica in eV."""
        return self.per_system(0.5 * self._masses[:, 0] * (self.velocities**2).sum(dim=1), 'sum')

    def temperatures(self) -> Any:
        """Return the kinetic temperature of each replica in K, from 3 N - 3 degrees of freedom."""
        return 2 * self.kinetic_energies() / (self._dof * units.kB)

    def max_forces(self) -> Any:
        """Largest force on an atom of each replica in eV/Å, NaN where one is not finite."""
        return self.per_system(self._torch.linalg.vector_norm(self.forces, dim=1), 'amax')

    def keep(self, systems: Sequence[int]) -> Any:
        """Drop all but these replicas; return the mask of their atoms."""
        if not systems:
            self.replicas = []
            return None
        mask = self._torch.isin(self.system, self._tensor(np.asarray(systems, dtype=np.int64)))
        self._force_call.keep(systems)
        self.positions, self.velocities, self.forces = (x[mask] for x in (self.positions, self.velocities, self.forces))
        self.energies = self.energies[list(systems)]
        self.replicas = [self.replicas[i] for i in systems]
        self._layout()
        return mask


def _stop(trajectory: Trajectory, frame: Frame, reason: str, settings: ExplorationSettings) -> None:
    """End a trajectory at ``frame``, which is kept if it can still be labelled."""
    trajectory.n_steps, trajectory.reason = frame.step, reason
    if can_be_labelled(trajectory.replica, frame, settings):
        trajectory.unsafe = frame


def _stop_hard(batch: Langevin, trajectories: dict[int, Trajectory], step: int, limit: float) -> Any:
    """End the replicas with a force beyond ``limit`` at once; return the mask of the atoms that remain, or None."""
    forces = batch.max_forces()
    bad = ~(forces <= limit)  # also where it is not a number
    if not bool(bad.any()):
        return None
    for system in np.flatnonzero(bad.cpu().numpy()):
        trajectory = trajectories[batch.replicas[system].index]
        trajectory.n_steps = step
        trajectory.reason = (
            NOT_FINITE
            if not np.isfinite(float(forces[system]))
            else f'a force of {float(forces[system]):.0f} eV/Å is far above `max_force`'
        )
    return batch.keep(np.flatnonzero(~bad.cpu().numpy()).tolist())


def _check(batch: Langevin, trajectories: dict[int, Trajectory], step: int, settings: ExplorationSettings) -> None:
    """Save the frames of the replicas that are within bounds; end the others, which leave the batch."""
    positions = np.split(batch.positions.cpu().numpy().copy(), batch.ends[:-1])
    max_forces, temperatures = batch.max_forces().tolist(), batch.temperatures().tolist()
    remaining = []
    for system, replica in enumerate(batch.replicas):
        trajectory = trajectories[replica.index]
        frame = Frame(step=step, positions=positions[system], cell=replica.cell)
        reason = out_of_bounds(replica, frame, max_forces[system], temperatures[system], settings)
        if reason:
            _stop(trajectory, frame, reason, settings)
            continue
        trajectory.frames.append(frame)
        trajectory.n_steps = step
        remaining.append(system)
    if len(remaining) < len(batch.replicas):
        batch.keep(remaining)


def _move_together(
    replicas: Sequence[Replica], model: Any, plan: DynamicsPlan, settings: ExplorationSettings
) -> dict[int, Trajectory]:
    """Run the replicas of one batch to their ends."""
    trajectories = {replica.index: Trajectory(replica=replica) for replica in replicas}
    limit = _HARD_FORCE * settings.max_force
    finite = [replica for replica in replicas if np.isfinite(replica.positions).all()]
    for replica in replicas:
        if replica not in finite:  # the neighbour search would refuse the whole batch
            trajectories[replica.index].reason = NOT_FINITE
    if not finite:
        return trajectories
    batch = Langevin(
        finite,
        model,
        time_step=plan.time_step,
        friction=plan.friction,
        key=[settings.seed, settings.iteration],
    )
    _stop_hard(batch, trajectories, 0, limit)
    for block in range(plan.n_steps // plan.stride):
        if not batch.replicas:
            break
        noise = batch.noise(block, plan.stride)
        for k in range(plan.stride):
            batch.step(noise[k])
            step = block * plan.stride + k + 1
            mask = _stop_hard(batch, trajectories, step, limit)
            if mask is not None:
                noise = noise[:, mask]
            if not batch.replicas:
                break
        if batch.replicas:
            _check(batch, trajectories, step, settings)
    return trajectories


def _batches(replicas: Sequence[Replica], max_atoms: int) -> Iterator[list[Replica]]:
    """Yield replicas that can move together: the same periodicity, at most ``max_atoms`` atoms in all."""
    groups: dict[tuple[bool, ...], list[Replica]] = {}
    for replica in replicas:
        groups.setdefault(tuple(replica.pbc.tolist()), []).append(replica)
    for group in groups.values():
        batch: list[Replica] = []
        for replica in group:
            if batch and sum(len(item.numbers) for item in batch) + len(replica.numbers) > max_atoms:
                yield batch
                batch = []
            batch.append(replica)
        yield batch


def propagate(
    replicas: Sequence[Replica], model: Any, plan: DynamicsPlan, settings: ExplorationSettings
) -> list[Trajectory]:
    """Run all replicas for ``plan.n_steps`` steps with the forces of ``model`` (whole strides only).

    Every ``stride`` steps a replica's frame is saved if it is within bounds; if not, the replica ends there, with its
    reason. The start itself is not saved.

    :raises ValueError: for a replica of one atom, which has no degree of freedom.
    """
    for replica in replicas:
        if len(replica.numbers) < 2:
            raise ValueError(f'replica {replica.index} has a single atom, which cannot move: start from a supercell.')
    done: dict[int, Trajectory] = {}
    for batch in _batches(replicas, settings.atoms_per_batch):
        done |= _move_together(batch, model, plan, settings)
    return [done[replica.index] for replica in replicas]
