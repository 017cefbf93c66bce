"""Plan ``random_search``: random cells, relaxed by the model.

As ab initio random structure searching does (Pickard and Needs, J. Phys.: Condens. Matter 23, 053201 (2011)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from aiida_mlipal.science.exploration_plans import Plan
from aiida_mlipal.science.filters import unphysical
from aiida_mlipal.science.settings import check_integer, check_number, unknown_name

__all__ = ('RandomSearchPlan', 'random_cell')

#: Angles of a random cell in degrees, and how much longer than another vector one may be.
_ANGLES: Final = (60.0, 120.0)
_LONGEST: Final = 2.0
#: How often an atom, and a whole cell, is tried.
_TRIES_PER_ATOM: Final = 200
_TRIES: Final = 50


@dataclass(frozen=True, kw_only=True)
class RandomSearchPlan(Plan):
    """Random cells under constraints on distances, relaxed with the model in one batch; the way down is kept too."""

    KIND: ClassVar[str] = 'random_search'

    n_structures: int = 8
    #: atoms of a cell by element, as {Si: 8}; empty for those of the start
    composition: Mapping[str, int] | None = None
    #: smallest and largest volume per atom in Å³; empty for 0.8 and 1.4 times that of the start, which is periodic then
    volume_per_atom: Sequence[float] | None = None
    separation: float = 0.8  #: smallest distance at the beginning, of the sum of covalent radii
    max_steps: int = 100  #: of the relaxation, at most
    save_every: int = 10  #: steps between saved frames
    converged_force: float = 0.05  #: eV/Å
    relax_cells: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('n_structures', 'max_steps', 'save_every'):
            check_integer(name, getattr(self, name))
        check_number('separation', self.separation, within=(0.1, 1.5))
        check_number('converged_force', self.converged_force, above=0)
        if not isinstance(self.relax_cells, bool):
            raise ValueError(f'`relax_cells` must be true or false, got {self.relax_cells!r}.')
        self._check_composition()
        self._check_volume()

    def _check_composition(self) -> None:
        if self.composition is None:
            return
        if not isinstance(self.composition, Mapping) or not self.composition:
            raise ValueError(f'`composition` must be a mapping as {{Si: 8}}, got {self.composition!r}.')
        for symbol, count in self.composition.items():
            if symbol not in chemical_symbols[1:]:
                raise ValueError('`composition`: ' + unknown_name('element', symbol, chemical_symbols[1:]))
            check_integer(f'composition: {symbol}', count)

    def _check_volume(self) -> None:
        if self.volume_per_atom is None:
            return
        if not isinstance(self.volume_per_atom, (list, tuple)) or len(self.volume_per_atom) != 2:
            raise ValueError(f'`volume_per_atom` must be two numbers in Å³, got {self.volume_per_atom!r}.')
        low, high = self.volume_per_atom
        check_number('volume_per_atom', low, above=0)
        check_number('volume_per_atom', high, within=(float(low), 1e4))
        if self.composition is not None:
            numbers = np.repeat(
                [chemical_symbols.index(name) for name in self.composition], [*self.composition.values()]
            )
            least = _volume_of_spheres(numbers, self.separation)
            if high < least:
                raise ValueError(
                    f'`volume_per_atom` ends at {high:g} Å³, but spheres as `separation` ({self.separation:g}) '
                    f'asks for fill {least:.1f} Å³ per atom: raise the one or lower the other.'
                )

    @property
    def n_replicas(self) -> int:
        """Number of random structures."""
        return self.n_structures

    def numbers(self, start: Atoms) -> NDArray[np.int64]:
        """Atomic numbers of a cell, by element."""
        if self.composition is None:
            return np.sort(start.numbers)
        symbols = [symbol for symbol, count in self.composition.items() for _ in range(count)]
        return np.sort(Atoms(symbols).numbers)

    def volumes(self, start: Atoms) -> tuple[float, float]:
        """Smallest and largest volume per atom, Å³.

        :raises ValueError: if they should follow from a start that has no volume.
        """
        if self.volume_per_atom is not None:
            return float(self.volume_per_atom[0]), float(self.volume_per_atom[1])
        if not start.pbc.all():
            raise ValueError(
                f'`{self.label}`: the start {start.get_chemical_formula()} is not periodic in three directions, it has '
                'no volume: give `volume_per_atom`, two numbers in Å³.'
            )
        own = start.get_volume() / len(start)
        return 0.8 * own, 1.4 * own


def _volume_of_spheres(numbers: NDArray[Any], separation: float) -> float:
    """Return the volume per atom of spheres whose radii are ``separation`` times the covalent ones, Å³."""
    return float(np.mean(4 / 3 * np.pi * (separation * covalent_radii[numbers]) ** 3))


def random_cell(
    numbers: NDArray[np.int64], volumes: tuple[float, float], separation: float, rng: np.random.Generator
) -> Atoms:
    """Return a random cell, periodic in all directions, whose atoms keep their distances.

    Volume per atom, angles and ratios of lengths are uniform in their ranges; atoms are placed one by one, uniformly
    where they fit. A cell that cannot be filled is drawn anew.

    :param numbers: (N,) atomic numbers.
    :param volumes: smallest and largest volume per atom, Å³.
    :param separation: smallest distance, of the sum of the covalent radii, images included.
    :raises ValueError: if no cell could be filled.
    """
    for _ in range(_TRIES):
        cell = _random_lattice(len(numbers) * rng.uniform(*volumes), rng)
        positions = _fill(numbers, cell, separation, rng)
        if positions is not None:
            return Atoms(numbers=numbers, positions=positions, cell=cell, pbc=True)
    raise ValueError(
        f'{Atoms(numbers=numbers).get_chemical_formula()} found no place in {_TRIES} random cells of {volumes[0]:.1f} '
        f'to {volumes[1]:.1f} Å³ per atom with atoms {separation:g} times the sum of their covalent radii apart: '
        'lower `separation` or raise `volume_per_atom`.'
    )


def _random_lattice(volume: float, rng: np.random.Generator) -> NDArray[np.float64]:
    while True:
        angles = rng.uniform(*_ANGLES, size=3)
        lengths = rng.uniform(1.0, _LONGEST, size=3)
        cosines = np.cos(np.radians(angles))
        squared = 1 - (cosines**2).sum() + 2 * cosines.prod()
        if squared > 0.1:  # flat cells have no room
            shape = Cell.fromcellpar([*lengths, *angles]).array
            lattice: NDArray[np.float64] = shape * (volume / abs(np.linalg.det(shape))) ** (1 / 3)
            return lattice


def _fill(
    numbers: NDArray[np.int64], cell: NDArray[np.float64], separation: float, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return positions of all atoms, or None if one found no place."""
    positions = np.zeros((0, 3))
    periodic = np.ones(3, dtype=bool)
    for count in range(1, len(numbers) + 1):
        for _ in range(_TRIES_PER_ATOM):
            trial = np.concatenate([positions, rng.random((1, 3)) @ cell])
            if not unphysical(numbers[:count], trial, cell, periodic, separation):
                positions = trial
                break
            if count == 1:
                return None  # its own images are too close
        else:
            return None
    return positions
