"""Local environments of large systems, cut out so that they can be labelled at all.

A cut-out keeps the surroundings of one atom as they are, up to the core radius; what is farther away only has to be
something reasonable. Two kinds: a small periodic cell, for what is dense and extended, and a cluster whose cut bonds
end in hydrogen, for covalent matter and molecules, where the model knows hydrogen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

__all__ = ('CutOut', 'cluster_cutout', 'periodic_cutout')

#: Atoms are bonded up to this multiple of the sum of their covalent radii.
_BONDED: Final = 1.25
#: A cell fits if it has lost no atom at its faces and its density is that of the whole within this share.
_SAME_DENSITY: Final = 0.02
#: Å by which a cell is wider than its core, so that its faces can be moved to where there are fewest atoms.
_SPARE: Final = 1.5


@dataclass(frozen=True, eq=False, kw_only=True)
class CutOut:
    """A part of a frame. ``atoms`` are in the order of the frame, hydrogen that ends cut bonds comes last."""

    atoms: Atoms
    rows: NDArray[np.int64]  #: atom of the frame that each atom was, -1 for those that were added
    centre: int  #: atom of the frame around which it was cut
    n_removed: int = 0  #: atoms taken out because they came too close to an image

    @property
    def centre_row(self) -> int:
        """Which atom of the cut-out the centre is."""
        return int(np.flatnonzero(self.rows == self.centre)[0])

    @property
    def n_added(self) -> int:
        """Number of atoms that were not in the frame."""
        return int((self.rows < 0).sum())


def _from_centre(atoms: Atoms, centre: int) -> NDArray[np.float64]:
    """Return the vector from ``centre`` to the nearest image of each atom, Å."""
    vectors: NDArray[np.float64] = find_mic(atoms.positions - atoms.positions[centre], atoms.cell, atoms.pbc)[0]
    return vectors


def _check(atoms: Atoms, centre: int, core_radius: float) -> None:
    if not 0 <= centre < len(atoms):
        raise ValueError(f'there is no atom {centre}: the frame has {len(atoms)} atoms, counted from 0.')
    if not core_radius > 0:
        raise ValueError(f'`core_radius` must be greater than 0 Å, got {core_radius!r}.')


def periodic_cutout(atoms: Atoms, centre: int, core_radius: float, min_distance_factor: float = 0.6) -> CutOut:
    """Return a small periodic cell around an atom.

    Its vectors are integer fractions of those of the frame, with room for twice ``core_radius`` and 1.5 Å to spare
    between faces, which are put where there are fewest atoms, so that a supercell of a crystal is cut into whole cells
    wherever its size allows it. Of all such cells the smallest is taken that loses no atom and keeps the density; if
    there is none, the one that comes closest. Where an atom meets the image of another, the one farther from the centre
    is taken out, never one of the core.

    :param core_radius: Å.
    :param min_distance_factor: atoms closer than this part of the sum of their covalent radii meet.
    :raises ValueError: for a frame that is not periodic in all directions, or one that is too small to cut.
    """
    _check(atoms, centre, core_radius)
    if not atoms.pbc.all():
        raise ValueError('a periodic cell is cut out of a frame that is periodic in all directions: cut a cluster.')
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    largest = np.floor(heights / (2 * core_radius + _SPARE) + 1e-6).astype(int)
    if (largest < 1).any() or largest.prod() == 1:
        raise ValueError(
            f'the frame of {heights.round(1).tolist()} Å between its faces holds no smaller cell with '
            f'{core_radius:g} Å around its centre: lower `core_radius`, or label the whole frame.'
        )
    divisions = sorted(product(*(range(1, n + 1) for n in largest)), key=lambda n: (-np.prod(n), n))[:-1]
    best, least = None, np.inf
    for division in divisions:
        found = _cell(atoms, centre, np.array(division), core_radius, min_distance_factor)
        if found is None:
            continue
        mismatch = abs(len(found.atoms) * np.prod(division) / len(atoms) - 1)
        if not found.n_removed and mismatch < _SAME_DENSITY:
            return found
        if mismatch + found.n_removed / len(found.atoms) < least:
            best, least = found, mismatch + found.n_removed / len(found.atoms)
    if best is None:
        raise ValueError('in every smaller cell atoms of the core meet their images: lower `core_radius`.')
    return best


def _widest_gap(coordinates: NDArray[np.float64], division: int, height: float) -> float:
    """Return the lower face of a cell around 0, as a fraction of the whole, farthest from any atom or its image."""
    shifts = np.linspace(-0.5, 0.5, 31) * _SPARE / height
    faces = -0.5 / division + shifts
    apart = (coordinates[None] - faces[:, None]) * division
    nearest = np.abs(apart - np.round(apart)).min(axis=1)
    return float(faces[int(np.argmax(np.round(nearest, 9)))])


def _cell(atoms: Atoms, centre: int, division: NDArray[np.int64], core_radius: float, factor: float) -> CutOut | None:
    """Return the cell of one size, or None if atoms of the core meet."""
    inverse = np.linalg.inv(atoms.cell.array)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    scaled = _from_centre(atoms, centre) @ inverse
    scaled -= np.round(scaled)
    low = np.array([_widest_gap(scaled[:, k], int(division[k]), heights[k]) for k in range(3)])
    rows = np.flatnonzero(((scaled >= low) & (scaled < low + 1 / division)).all(axis=1))
    cut = Atoms(
        numbers=atoms.numbers[rows], positions=scaled[rows] @ atoms.cell.array,
        cell=atoms.cell.array / division[:, None], pbc=True,
    )  # fmt: skip
    distance = np.linalg.norm(cut.positions, axis=1)
    gone: set[int] = set()
    radii = factor * covalent_radii[cut.numbers]
    first, second, lengths = neighbor_list('ijd', cut, radii)
    for pair in np.argsort(lengths / (radii[first] + radii[second]), kind='stable'):
        i, j = int(first[pair]), int(second[pair])
        if i in gone or j in gone:
            continue
        farther = i if (distance[i], i) > (distance[j], j) else j
        if distance[farther] <= core_radius:
            return None
        gone.add(farther)
    kept = np.array([row for row in range(len(rows)) if row not in gone], dtype=np.int64)
    cut = cut[kept]
    cut.positions += cut.cell.array.sum(axis=0) / 2
    return CutOut(atoms=cut, rows=rows[kept], centre=centre, n_removed=len(gone))


def cluster_cutout(atoms: Atoms, centre: int, core_radius: float) -> CutOut:
    """Return a cluster around an atom, without periodicity; hydrogen ends the bonds that were cut.

    It holds all atoms within ``core_radius`` (Å), and further ones that two or more atoms of the cluster are bonded to:
    two hydrogen atoms in the place of one would overlap. Bonds of hydrogen are never cut. A cap sits on the cut bond at
    the sum of the covalent radii.

    :raises ValueError: if the cluster would hold an atom and its own image.
    """
    _check(atoms, centre, core_radius)
    radii = _BONDED * covalent_radii[atoms.numbers]
    first, second, vectors = neighbor_list('ijD', atoms, radii)
    places: dict[int, NDArray[np.float64]] = {
        int(row): vector
        for row, vector in enumerate(_from_centre(atoms, centre))
        if np.linalg.norm(vector) <= core_radius
    }
    while True:
        seen: dict[int, list[NDArray[np.float64]]] = {}
        must = set[int]()
        for i, j, vector in zip(first.tolist(), second.tolist(), vectors, strict=True):
            if i not in places:
                continue
            place = places[i] + vector
            if j in places:
                if np.linalg.norm(place - places[j]) > 1e-3:
                    raise ValueError(
                        f'the cluster around atom {centre} meets its own image: lower `core_radius` '
                        f'({core_radius:g} Å).'
                    )
                continue
            seen.setdefault(j, []).append(place)
            if atoms.numbers[i] == 1 or atoms.numbers[j] == 1:
                must.add(j)
        new = {j: found[0] for j, found in seen.items() if len(found) > 1 or j in must}
        if not new:
            break
        places |= new
    rows = np.array(sorted(places), dtype=np.int64)
    caps = [
        places[i] + vector / np.linalg.norm(vector) * (covalent_radii[atoms.numbers[i]] + covalent_radii[1])
        for i, j, vector in zip(first.tolist(), second.tolist(), vectors, strict=True)
        if i in places and j not in places
    ]
    cluster = Atoms(
        numbers=[*atoms.numbers[rows].tolist(), *[1] * len(caps)],
        positions=np.array([*(places[row] for row in rows.tolist()), *caps]),
    )
    return CutOut(atoms=cluster, rows=np.concatenate([rows, np.full(len(caps), -1, dtype=np.int64)]), centre=centre)
