"""Small synthetic pools and evaluations that the tests of this room share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation


def silicon(n_frames: int, seed: int, stdev: float = 0.05) -> list[Atoms]:
    """Rattled two-atom silicon cells."""
    rng = np.random.default_rng(seed)
    frames = []
    cell = bulk('Si')
    for _ in range(n_frames):
        atoms = cell.copy()
        atoms.positions += rng.normal(scale=stdev, size=(len(atoms), 3))
        frames.append(atoms)
    return frames


def evaluation_of(
    configs: Configurations,
    descriptors: NDArray[np.float64],
    *,
    spread: Sequence[float] | NDArray[np.float64] | None = None,
    n_members: int = 4,
    energy: NDArray[np.float64] | None = None,
    forces: NDArray[np.float64] | None = None,
    forces_std: NDArray[np.float64] | None = None,
) -> Evaluation:
    """Return an evaluation with one spread per frame (the same on all its atoms) or given per atom."""
    n_frames, n_total = len(configs), int(configs.n_atoms.sum())
    energies = np.zeros(n_frames) if energy is None else energy
    if forces_std is None:
        per_frame = np.full(n_frames, np.nan) if spread is None else np.asarray(spread, dtype=float)
        forces_std = np.repeat(per_frame, configs.n_atoms)
    return Evaluation(
        frame_id=configs.frame_id,
        n_atoms=configs.n_atoms,
        energy=energies,
        forces=np.zeros((n_total, 3)) if forces is None else forces,
        stress=np.zeros((n_frames, 6)),
        energy_std=np.zeros(n_frames),
        forces_std=forces_std,
        stress_std=np.full(n_frames, np.nan),
        member_energy=np.repeat(np.asarray(energies)[:, None], n_members, axis=1),
        descriptors=np.asarray(descriptors, dtype=float),
    )
