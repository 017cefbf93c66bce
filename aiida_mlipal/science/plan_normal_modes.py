"""Plan ``normal_modes``: thermal displacements along the normal modes of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase import units
from numpy.typing import NDArray

from aiida_mlipal.science.exploration_plans import Plan
from aiida_mlipal.science.settings import check_integer, check_number

__all__ = ('NormalModesPlan', 'normal_modes', 'thermal_displacements')


@dataclass(frozen=True, kw_only=True)
class NormalModesPlan(Plan):
    """Frames with all normal modes excited at once, each by its classical thermal amplitude, around the minimum."""

    KIND: ClassVar[str] = 'normal_modes'

    temperatures: Sequence[float] = (300.0, 900.0, 1500.0)  #: K
    n_replicas_per_temperature: int = 2
    n_frames: int = 5  #: of each replica
    min_frequency: float = 0.5  #: THz; slower modes are left out: translations, rotations, what hardly resists
    difference: float = 0.01  #: Å; displacement of an atom in the finite differences of forces
    max_steps: int = 100  #: of the relaxation before, at most
    converged_force: float = 0.02  #: eV/Å, of that relaxation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('n_replicas_per_temperature', 'n_frames', 'max_steps'):
            check_integer(name, getattr(self, name))
        for name in ('min_frequency', 'difference', 'converged_force'):
            check_number(name, getattr(self, name), above=0)
        if not isinstance(self.temperatures, (list, tuple)) or not self.temperatures:
            raise ValueError(f'`temperatures` must be a list of at least one number in K, got {self.temperatures!r}.')
        for value in self.temperatures:
            check_number('temperatures', value, above=0)

    @property
    def replica_temperatures(self) -> list[float]:
        """Temperature of each replica in K."""
        return [float(value) for value in self.temperatures for _ in range(self.n_replicas_per_temperature)]

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.replica_temperatures)


def normal_modes(
    hessian: NDArray[np.float64], masses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return frequencies in THz, ascending, ``(3N,)``, and the modes in rows, ``(3N, N, 3)``.

    Unstable modes have negative frequencies. A mode is the displacement per mass-weighted coordinate, so that the
    squares of all modes times the masses sum to one.

    :param hessian: ``(3N, 3N)``, eV/Å².
    :param masses: ``(N,)``, u.
    """
    weights = np.repeat(masses, 3) ** -0.5
    squared, vectors = np.linalg.eigh(weights[:, None] * (hessian + hessian.T) / 2 * weights)
    frequencies = np.sign(squared) * np.sqrt(np.abs(squared)) * units.fs * 1e3 / (2 * np.pi)
    return frequencies, (vectors * weights[:, None]).T.reshape(-1, len(masses), 3)


def thermal_displacements(
    frequencies: NDArray[np.float64], modes: NDArray[np.float64], temperature: float, min_frequency: float,
    n_frames: int, rng: np.random.Generator,
) -> NDArray[np.float64]:  # fmt: skip
    """Return displacements ``(n_frames, N, 3)`` in Å from the classical harmonic distribution at ``temperature`` (K).

    Each stable mode has kT / 2 of potential energy on average. An unstable one has the amplitude of a stable one of the
    same frequency; modes below ``min_frequency`` (THz) stay at rest.
    """
    used = np.abs(frequencies) >= min_frequency
    angular = 2 * np.pi * np.abs(frequencies[used]) / (units.fs * 1e3)
    amplitudes = rng.standard_normal((n_frames, int(used.sum()))) * np.sqrt(units.kB * temperature) / angular
    displacements: NDArray[np.float64] = np.tensordot(amplitudes, modes[used], axes=1)
    return displacements
