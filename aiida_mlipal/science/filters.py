"""What cannot be a structure: coordinates that are not finite, cells without volume, atoms on top of each other.

Needs numpy and ASE only, because the exploration runner uses it on the compute node too.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Final

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import complete_cell
from ase.neighborlist import primitive_neighbor_list
from numpy.typing import ArrayLike, NDArray

from aiida_mlipal.science.configurations import Configurations

__all__ = ('contacts', 'physical', 'too_close', 'unphysical')

#: A periodic cell flatter than this cannot be meant; the neighbour search would run out of memory first. Å
_MIN_HEIGHT: Final = 0.5
#: Up to this many atoms all pairs are looked at, which for small frames is ten to twenty times faster than cell lists.
_MAX_ALL_PAIRS: Final = 200

_Contacts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _contacts_of_all_pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], radii: NDArray[np.float64]
) -> _Contacts:
    """Return all pairs closer than the sum of their radii, from all pairs and as many images as can matter."""
    first, second = np.triu_indices(len(positions))
    lattice = complete_cell(cell)
    inverse = np.linalg.inv(lattice)
    scaled = (positions[first] - positions[second]) @ inverse
    scaled[:, pbc] -= np.round(scaled[:, pbc])
    # Once wrapped, image n of a pair is at least (n - 1/2) heights of the cell away.
    heights = 1 / np.linalg.norm(inverse, axis=0)
    reach = np.where(pbc, np.ceil(2 * radii.max() / heights + 0.5) - 1, 0).astype(int)
    limits = radii[first] + radii[second]
    found = []
    for image in product(*(range(-n, n + 1) for n in reach)):
        distances = np.linalg.norm((scaled + image) @ lattice, axis=1)
        near = distances < limits
        if not any(image):
            near &= first != second
        found.append((first[near], second[near], distances[near]))
    first, second, distances = (np.concatenate(column) for column in zip(*found, strict=True))
    return first, second, distances


def _contacts_in_cells(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], radii: NDArray[np.float64]
) -> _Contacts:
    """Return what :func:`_contacts_of_all_pairs` does, by ASE's linear-scaling search, milliseconds for any frame."""
    first, second, distances = primitive_neighbor_list('ijd', pbc, cell, positions, radii)
    return first, second, distances


def contacts(numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, factor: float) -> _Contacts:
    """Return all pairs of atoms closer than ``factor`` times the sum of their covalent radii, and their distances.

    The same pair may appear twice, and more than once in a small cell. Arguments as for :func:`too_close`.
    """
    numbers, positions, cell = np.asarray(numbers, dtype=int), np.asarray(positions, float), np.asarray(cell, float)
    search = _contacts_of_all_pairs if len(numbers) <= _MAX_ALL_PAIRS else _contacts_in_cells
    return search(positions, cell, np.asarray(pbc, dtype=bool), factor * covalent_radii[numbers])


def too_close(numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, factor: float = 0.6) -> str:
    """Return which two atoms of a frame are too close, or an empty string.

    Distances are to the nearest periodic image, an atom's own images included, and are compared with ``factor`` times
    the sum of the covalent radii (Cordero et al. 2008, through :mod:`ase.data`).

    :param numbers: (N,) atomic numbers.
    :param positions: (N, 3) in Å, finite.
    :param cell: (3, 3) in Å, finite; rows of zeros where there is no cell.
    :param pbc: (3,) periodic directions.
    """
    numbers = np.asarray(numbers, dtype=int)
    radii = factor * covalent_radii[numbers]
    first, second, distance = contacts(numbers, positions, cell, pbc, factor)
    if len(distance) == 0:
        return ''
    worst = int(np.argmin(distance / (radii[first] + radii[second])))
    i, j = sorted((int(first[worst]), int(second[worst])))
    limit = radii[i] + radii[j]
    return (
        f'atoms {i} ({chemical_symbols[numbers[i]]}) and {j} ({chemical_symbols[numbers[j]]}) are '
        f'{distance[worst]:.3f} Å apart, less than {factor:g} times the sum of their covalent radii ({limit:.3f} Å)'
    )


def unphysical(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, min_distance_factor: float = 0.6
) -> str:
    """Return why a frame cannot be a structure, or an empty string. Arguments as for :func:`too_close`."""
    positions, cell, pbc = np.asarray(positions, float), np.asarray(cell, float), np.asarray(pbc, dtype=bool)
    if not np.isfinite(positions).all():
        return 'a position is not finite'
    if not np.isfinite(cell).all():
        return 'the cell is not finite'
    if pbc.any():
        faces = np.cross(np.roll(cell, -1, axis=0), np.roll(cell, -2, axis=0))
        areas = np.linalg.norm(faces, axis=1)
        volume = abs(float(np.linalg.det(cell)))
        # A slab or a wire may come without a vector along its open directions: then there is no volume to judge.
        complete = bool((np.linalg.norm(cell, axis=1) > 0).all())
        if not (np.linalg.norm(cell, axis=1)[pbc] > 0).all():
            return 'a periodic direction has no cell vector'
        if complete and volume < _MIN_HEIGHT * float(areas[pbc].max()):
            return f'the cell is flatter than {_MIN_HEIGHT:g} Å along a periodic direction'
    return too_close(numbers, positions, cell, pbc, min_distance_factor)


def physical(configs: Configurations, min_distance_factor: float = 0.6) -> NDArray[np.str_]:
    """Return for each frame why it cannot be a structure, or an empty string, shape ``(n_frames,)``."""
    offsets = configs.offsets
    reasons = [
        unphysical(
            configs.numbers[start:stop],
            configs.positions[start:stop],
            configs.cell[index],
            configs.pbc[index],
            min_distance_factor,
        )
        for index, (start, stop) in enumerate(pairwise(offsets))
    ]
    return np.array(reasons, dtype=str)
