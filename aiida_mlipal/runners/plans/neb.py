"""Plan ``neb``: climbing-image nudged elastic bands, all images of a band in one call of the model.

The band is ASE's (improved tangents, Henkelman and Jónsson, J. Chem. Phys. 113, 9978 (2000); climbing image, ibid.
9901), and so is its start from the image-dependent pair potential (Smidstrup et al.,
J. Chem. Phys. 140, 214106 (2014)).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB, idpp_interpolate
from ase.optimize import FIRE

from aiida_mlipal.runners.bounds import can_be_labelled, out_of_bounds
from aiida_mlipal.runners.forces import Forces, MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.relax import relax
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Frame, Replica, Trajectory, replica_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_neb import NebPlan

__all__ = ('Band', 'find_path', 'run')


class _BatchedNEB(NEB):
    """ASE's band, whose images get their energies and forces from one call."""

    def __init__(self, images: list[Atoms], forces: Forces) -> None:
        super().__init__(images, climb=True, method='improvedtangent')
        first = Configurations.from_atoms(images)
        self._systems = Systems([replica_at(first, row, row) for row in range(len(images))], forces.device)
        self._act = forces
        self._seen: tuple[Any, Any] | None = None  # ASE's optimisers ask several times a step

    def get_forces(self) -> Any:
        """Return the forces of the band on its inner images, one after the other, eV/Å.

        :raises FloatingPointError: if a force of the model is not finite.
        """
        positions = np.concatenate([image.positions for image in self.images])
        if self._seen is not None and np.array_equal(positions, self._seen[0]):
            return self._seen[1].copy()
        self._systems.positions = self._systems.tensor(positions)
        energies, forces, _ = self._act(self._systems)
        if not bool(forces.isfinite().all()):
            raise FloatingPointError('a force is not finite')
        for image, energy, force in zip(self.images, energies.tolist(), self._systems.split(forces), strict=True):
            image.calc = SinglePointCalculator(image, energy=energy, forces=force)
        band_forces = super().get_forces()
        self._seen = (positions, band_forces.copy())
        return band_forces


@dataclass(frozen=True, eq=False, kw_only=True)
class Band:
    """A path: its images with their energies and forces, the end points included."""

    images: list[Atoms]
    interpolated: list[Atoms]  #: the images before they were moved
    n_steps: int
    residual: float  #: largest force across the path, eV/Å

    @property
    def energies(self) -> list[float]:
        """Energy of each image in eV."""
        return [image.get_potential_energy() for image in self.images]

    @property
    def saddle(self) -> int:
        """Number of the highest image."""
        return int(np.argmax(self.energies))

    @property
    def barrier(self) -> float:
        """Energy of the highest image above the first, eV."""
        return self.energies[self.saddle] - self.energies[0]


def find_path(
    initial: Atoms, final: Atoms, forces: Forces, *, n_images: int, n_steps: int, converged_force: float
) -> Band:
    """Return the band between two relaxed end points.

    :raises FloatingPointError: if a force is not finite.
    """
    images = [initial.copy() for _ in range(n_images + 1)] + [final.copy()]
    band = _BatchedNEB(images, forces)
    band.interpolate(mic=True)
    with warnings.catch_warnings():  # ASE's own call does not name the method that it warns of
        warnings.simplefilter('ignore', UserWarning)
        idpp_interpolate(images, traj=None, log=None, mic=True)
    band.get_forces()
    interpolated = [image.copy() for image in images]
    for copy, image in zip(interpolated, images, strict=True):
        copy.calc = image.calc
    optimizer = FIRE(band, logfile=None)
    optimizer.run(fmax=converged_force, steps=n_steps)
    return Band(images=images, interpolated=interpolated, n_steps=optimizer.nsteps, residual=float(band.get_residual()))


def _atoms(replica: Replica, frame: Frame) -> Atoms:
    return Atoms(numbers=replica.numbers, positions=frame.positions, cell=frame.cell, pbc=replica.pbc)


def _walk(plan: NebPlan, replicas: list[Replica], forces: Forces, settings: ExplorationSettings) -> Trajectory:
    """Relax the end points ``replicas``, find the path between them, and return its images as a trajectory."""
    replica, n_images = replicas[0], plan.n_images + 2
    ends = relax(
        replicas, forces, settings, converged_force=plan.converged_force, n_steps=plan.max_steps, stride=plan.max_steps
    )
    trajectory = Trajectory(replica=replica, n_steps=sum(end.n_steps for end in ends))
    broken = next((end for end in ends if end.reason), None)
    if broken is not None:
        trajectory.reason, trajectory.unsafe = f'an end point did not relax: {broken.reason}', broken.unsafe
        return trajectory
    try:
        band = find_path(
            _atoms(replica, ends[0].frames[-1]),
            _atoms(replica, ends[1].frames[-1]),
            forces,
            n_images=plan.n_images,
            n_steps=plan.max_steps,
            converged_force=plan.converged_force,
        )
    except FloatingPointError as exception:
        trajectory.reason = f'the band broke: {exception}'
        return trajectory
    trajectory.n_steps += band.n_steps * n_images
    trajectory.found = {
        'barrier': band.barrier,
        'barrier_back': band.barrier - (band.energies[-1] - band.energies[0]),
        'residual_force': band.residual,
        'converged': band.residual <= plan.converged_force,
    }
    for number, image, mark in _candidates(band, plan):
        frame = Frame(step=number, positions=image.positions, cell=replica.cell, mark=mark)
        largest = float(np.linalg.norm(image.get_forces(), axis=1).max())
        reason = out_of_bounds(replica, frame, largest, float('nan'), settings, bonds_hold=False)
        if not reason:
            trajectory.frames.append(frame)
        elif not trajectory.reason:
            trajectory.reason = f'image {number} of the path: {reason}'
            trajectory.unsafe = frame if can_be_labelled(replica, frame, settings) else None
    return trajectory


def _candidates(band: Band, plan: NebPlan) -> Iterator[tuple[int, Atoms, str]]:
    """Yield the images with their numbers and marks, the saddle first; in the end those that were moved, as they were.

    Where the model has a hole, the band falls into it. What it was before does not depend on the model.
    """
    last = len(band.images) - 1
    for number in sorted(range(last + 1), key=lambda number: (number != band.saddle, number)):
        yield number, band.images[number], 'saddle' if number == band.saddle and 0 < number < last else plan.KIND
    for number in range(1, last):
        if not np.array_equal(band.interpolated[number].positions, band.images[number].positions):
            yield number, band.interpolated[number], 'interpolated'


def run(
    plan: NebPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Find each path with the first member. The step of a frame is the number of its image."""
    forces = MaceForces(models[:1])
    trajectories = []
    for index, (initial, final) in enumerate(plan.ends, start=first):
        # Both ends move together and need numbers of their own; the second one's is not seen outside.
        ends = [replica_at(starts, initial, index), replica_at(starts, final, -1)]
        trajectories.append(_walk(plan, ends, forces, settings))
    return trajectories
