"""What may be a structure but should not become a training frame: held against what the training set holds already.

Forces that no label would keep, densities that were never seen, and atoms that flew away from a structure that was one
piece. What cannot be a structure at all is the business of :mod:`aiida_mlipal.science.filters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.filters import contacts

__all__ = ('Bounds', 'implausible', 'n_fragments', 'packing')

#: Atoms farther apart than this multiple of the sum of their covalent radii do not hold each other; melts reach 1.4.
_APART: Final = 2.0


@dataclass(frozen=True)
class Bounds:
    """Beyond which a frame is not worth a label."""

    max_force: float  #: eV/Å, as predicted
    density_factor: float  #: how far beyond the densest and the thinnest training frame


def packing(frames: Configurations) -> NDArray[np.float64]:
    """Return the share of the cell that spheres of covalent radius fill, NaN if it is not periodic in all directions.

    A density that compares across compositions. Shape ``(n_frames,)``.
    """
    if not len(frames):
        return np.zeros(0)
    spheres = np.add.reduceat(4 / 3 * np.pi * covalent_radii[frames.numbers] ** 3, frames.offsets[:-1])
    with np.errstate(divide='ignore', invalid='ignore'):
        shares: NDArray[np.float64] = spheres / np.abs(np.linalg.det(frames.cell))
    return np.where(frames.pbc.all(axis=1), shares, np.nan)


def n_fragments(frames: Configurations, row: int) -> int:
    """Return in how many pieces a frame is: atoms hold each other up to twice the sum of their covalent radii."""
    atoms = slice(frames.offsets[row], frames.offsets[row + 1])
    first, second, _ = contacts(
        frames.numbers[atoms], frames.positions[atoms], frames.cell[row], frames.pbc[row], _APART
    )
    n_atoms = int(frames.n_atoms[row])
    bonds = coo_matrix((np.ones(len(first)), (first, second)), shape=(n_atoms, n_atoms))
    return int(connected_components(bonds, directed=False, return_labels=False))


def implausible(
    pool: Configurations, max_forces: NDArray[np.float64], known: Configurations, bounds: Bounds
) -> NDArray[np.str_]:
    """Return for each frame why it should not become a training frame, or an empty string, shape ``(n_frames,)``.

    :param pool: frames that can be structures.
    :param max_forces: (n_frames,) the largest predicted force on an atom, eV/Å.
    :param known: what is labelled already: it sets the bounds on the density, and holds the parents of frames.
    """
    trained = known.take(known.is_labelled & known.has_role('train', 'validation'))
    shares, seen = packing(pool), packing(trained)
    seen = seen[np.isfinite(seen)]
    low, high = (seen.min() / bounds.density_factor, seen.max() * bounds.density_factor) if len(seen) else (0, np.inf)
    rows_of = {str(frame): row for row, frame in enumerate(known.frame_id)}
    whole: dict[str, bool] = {}
    reasons = []
    for row in range(len(pool)):
        reason = ''
        if max_forces[row] > bounds.max_force:
            reason = f'its largest predicted force, {max_forces[row]:.1f} eV/Å, is above {bounds.max_force:g} eV/Å'
        elif shares[row] < low or shares[row] > high:
            reason = (
                f'its atoms fill {shares[row]:.3f} of the cell, more than {bounds.density_factor:g} times beyond what '
                f'training frames fill ({seen.min():.3f} to {seen.max():.3f})'
            )
        elif _is_whole(str(pool.parent[row]), known, rows_of, whole):
            pieces = n_fragments(pool, row)
            if pieces > 1:
                reason = f'it has come apart into {pieces} pieces, and its parent {pool.parent[row]} was one'
        reasons.append(reason)
    return np.array(reasons, dtype=str)


def _is_whole(parent: str, known: Configurations, rows_of: Mapping[str, int], cache: dict[str, bool]) -> bool:
    """Return whether a frame's parent is known to be one piece."""
    if parent not in rows_of:
        return False
    if parent not in cache:
        cache[parent] = n_fragments(known, rows_of[parent]) == 1
    return cache[parent]
