"""Plan ``normal_modes``: relax, find the normal modes by finite differences, displace along all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.bounds import can_be_labelled, out_of_bounds
from aiida_mlipal.runners.forces import Forces, MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.relax import Relaxation, batches, relax
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Frame, Replica, Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_normal_modes import NormalModesPlan, normal_modes, thermal_displacements

__all__ = ('displace', 'hessian', 'run')


def _forces_of(replicas: Sequence[Replica], forces: Forces, max_atoms: int) -> list[NDArray[np.float64]]:
    """Return the forces on each replica, eV/Å."""
    found: list[NDArray[np.float64]] = []
    for batch in batches(replicas, max_atoms):
        systems = Systems(batch, forces.device)
        found += systems.split(forces(systems).forces)
    return found


def hessian(replica: Replica, forces: Forces, *, difference: float, max_atoms: int) -> NDArray[np.float64]:
    """Return the second derivatives of the energy at a replica's positions, ``(3N, 3N)``, eV/Å².

    Central differences of forces; all displaced copies are evaluated in batches of at most ``max_atoms`` atoms.

    :param difference: Å.
    """
    n = replica.positions.size
    moves = np.concatenate([np.eye(n), -np.eye(n)]).reshape(2 * n, -1, 3) * difference
    displaced = [
        replace(replica, index=number, positions=replica.positions + move) for number, move in enumerate(moves)
    ]
    rows = np.array(_forces_of(displaced, forces, max_atoms)).reshape(2 * n, n)
    matrix: NDArray[np.float64] = (rows[n:] - rows[:n]) / (2 * difference)
    return (matrix + matrix.T) / 2


def _frames(
    replica: Replica, relaxed: Relaxation, modes: tuple[NDArray[np.float64], NDArray[np.float64]],
    plan: NormalModesPlan, forces: Forces, settings: ExplorationSettings,
) -> Trajectory:  # fmt: skip
    """Displace one replica around the minimum."""
    trajectory = Trajectory(replica=replica, n_steps=relaxed.n_steps)
    rng = np.random.default_rng([settings.seed, settings.iteration, replica.index])
    moves = thermal_displacements(*modes, replica.temperature, plan.min_frequency, plan.n_frames, rng)
    minimum = relaxed.frames[-1].positions
    displaced = [replace(replica, index=number, positions=minimum + move) for number, move in enumerate(moves)]
    for number, (copy, force) in enumerate(
        zip(displaced, _forces_of(displaced, forces, settings.atoms_per_batch), strict=True)
    ):
        frame = Frame(step=number, positions=copy.positions, cell=replica.cell, mark=plan.KIND)
        reason = out_of_bounds(
            replica, frame, float(np.linalg.norm(force, axis=1).max()), float('nan'), settings
        )  # fmt: skip
        if not reason:
            trajectory.frames.append(frame)
        elif not trajectory.reason:
            trajectory.reason = f'displacement {number}: {reason}'
            trajectory.unsafe = frame if can_be_labelled(replica, frame, settings) else None
    frequencies = modes[0]
    trajectory.found = {
        'highest_frequency_THz': float(frequencies[-1]),
        'n_unstable_modes': int((frequencies < -plan.min_frequency).sum()),
        'n_frames_out_of_bounds': plan.n_frames - len(trajectory.frames),
    }
    return trajectory


def displace(
    plan: NormalModesPlan, starts: Configurations, forces: Forces, settings: ExplorationSettings, first: int
) -> list[Trajectory]:
    """Displace all replicas; the minimum and the modes of a start are found once. The step of a frame is its number."""
    replicas = replicas_at(starts, first, plan.replica_temperatures)
    firsts = list({replica.start: replica for replica in reversed(replicas)}.values())
    relaxed = relax(
        firsts, forces, settings, converged_force=plan.converged_force, n_steps=plan.max_steps, stride=plan.max_steps
    )
    minima = {one.replica.start: one for one in relaxed}
    modes = {
        start: normal_modes(
            hessian(
                replace(one.replica, positions=one.frames[-1].positions), forces,
                difference=plan.difference, max_atoms=settings.atoms_per_batch,
            ),
            one.replica.masses,
        )
        for start, one in minima.items()
        if not one.reason
    }  # fmt: skip
    return [
        _frames(replica, minima[replica.start], modes[replica.start], plan, forces, settings)
        if replica.start in modes
        else Trajectory(
            replica=replica, reason=f'the start did not relax: {minima[replica.start].reason}',
            unsafe=minima[replica.start].unsafe,
        )
        for replica in replicas
    ]  # fmt: skip


def run(
    plan: NormalModesPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Displace along the normal modes of the first member."""
    return displace(plan, starts, MaceForces(models[:1]), settings, first)
