"""What a frame must have to be trained on: a label with possible forces, and a cell with countable neighbourhoods."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations

__all__ = ('MAX_FORCE', 'MAX_NEIGHBOURS', 'check_cells', 'check_frames', 'neighbours_per_atom')

#: eV/Å. No label that a model could learn from has larger forces: two copper atoms repel each other with as much at
#: 0.9 Å. MACE scales its energies with the RMS of all forces, so that one frame of 1e6 eV/Å spoils the model without a
#: word: forces of the copper in the tests were off by 9.8 eV/Å after 30 epochs, and by 0.036 eV/Å without that frame.
MAX_FORCE: Final = 1000.0

#: Neighbours per atom above which a training is refused. Copper within 6 Å has 76, within 10 Å 350, within 14 Å 970.
#: A model of 64 channels and ``max_ell`` 3 keeps about 40 kB for each of them, so 100 atoms would take 4 GB.
MAX_NEIGHBOURS: Final = 1000


def check_frames(frames: Configurations, *, r_max: float) -> None:
    """Refuse labelled frames that cannot be trained on, naming the first of them.

    :param r_max: cutoff, Å.
    :raises ValueError: if energy or forces are missing or impossible; see also :func:`check_cells`.
    """
    problems = []
    without_energy = ~np.isfinite(frames.energy)
    without_forces = np.zeros(len(frames), dtype=bool)
    without_forces[frames.atom_frame[~np.isfinite(frames.forces).all(axis=1)]] = True
    for what, mask in (('energy', without_energy), ('forces', without_forces)):
        if mask.any():
            problems.append(
                f'{_some(frames, mask)} no {what}, from which MACE learns: label them anew, with an engine or a '
                f'calculator that gives {what}, or take them out of the dataset.'
            )
    largest = np.zeros(len(frames))
    np.fmax.at(largest, frames.atom_frame, np.linalg.norm(frames.forces, axis=1))
    if (largest > MAX_FORCE).any():
        problems.append(
            f'{_some(frames, largest > MAX_FORCE)} forces above {MAX_FORCE:g} eV/Å (up to {largest.max():.3g} eV/Å in '
            f'{frames.frame_id[np.argmax(largest)]}), which would spoil the model for all others: take them out of the '
            'dataset, or give them the status `rejected` and a reason, `frames.with_columns(status=..., reason=...)`.'
        )
    if problems:
        raise ValueError(' '.join(problems))
    check_cells(frames, r_max=r_max)


def check_cells(frames: Configurations, *, r_max: float) -> None:
    """Refuse cells in which an atom has no finite or no affordable number of neighbours.

    A cell may well be smaller than the cutoff: MACE finds all periodic images, as did the code that made the labels.

    :param r_max: cutoff, Å.
    :raises ValueError: with what was found and how to mend it.
    """
    counts = neighbours_per_atom(frames, r_max=r_max)
    flat = np.isinf(counts)
    if flat.any():
        raise ValueError(
            f'{_some(frames, flat)} a cell without extent along a direction that is periodic: give it one, or set '
            '`pbc` to false along that direction.'
        )
    crowded = counts > MAX_NEIGHBOURS
    if crowded.any():
        raise ValueError(
            f'with `r_max` of {r_max:g} Å {_some(frames, crowded)} more than {MAX_NEIGHBOURS} neighbours per atom '
            f'(about {counts.max():.0f} in {frames.frame_id[np.argmax(counts)]}), which no memory holds: lower `r_max` '
            '(4 to 7 Å are usual), or set `pbc` to false along directions in which nothing repeats.'
        )


def neighbours_per_atom(frames: Configurations, *, r_max: float) -> NDArray[np.float64]:
    """Return how many neighbours an atom of each frame has within ``r_max`` (Å), estimated from the mean density.

    It is the volume of a ball times the atoms per volume of the cell. Directions that are not periodic count with the
    extent of the atoms, or 4/3 of the cutoff if that is more: a sheet has as many neighbours as lie on a disc.

    :returns: shape ``(n_frames,)``; infinite where a periodic direction has no extent.
    """
    cell, offsets = frames.cell.copy(), frames.offsets
    for index in np.flatnonzero(~frames.pbc.all(axis=1)):
        pbc, positions = frames.pbc[index], frames.positions[offsets[index] : offsets[index + 1]]
        # The last rows are orthonormal to all periodic vectors.
        free = np.linalg.svd(cell[index][pbc])[2][pbc.sum() :] if pbc.any() else np.eye(3)
        extent = np.maximum(np.ptp(positions @ free.T, axis=0), 4 / 3 * r_max)
        cell[index][~pbc] = extent[:, None] * free
    volume = np.abs(np.linalg.det(cell))
    flat = volume <= 1e-8 * np.prod(np.linalg.norm(cell, axis=2), axis=1)
    ball = 4 / 3 * np.pi * r_max**3
    counts: NDArray[np.float64] = np.where(flat, np.inf, frames.n_atoms * ball / np.where(flat, 1.0, volume))
    return counts


def _some(frames: Configurations, mask: NDArray[np.bool_]) -> str:
    """Return for example ``3 of 40 frames (f1234... first) have``."""
    verb = 'has' if mask.sum() == 1 else 'have'
    return f'{mask.sum()} of {len(frames)} frames ({frames.frame_id[mask][0]} first) {verb}'
