"""Collective variables of metadynamics: what each is called, and the keys it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from aiida_mlipal.science.settings import check_integer, check_number, from_dict, unknown_name

__all__ = (
    'VARIABLES', 'Angle', 'CollectiveVariable', 'Coordination', 'Dihedral', 'Distance', 'Geometry', 'Latent',
    'read_variables', 'selected_atoms',
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CollectiveVariable:
    """What all variables have in common."""

    TYPE: ClassVar[str] = ''
    PERIOD: ClassVar[float] = 0.0  #: after which the variable repeats; 0 if it does not

    width: float  #: of a hill, the standard deviation of the Gaussian, in the unit of the variable

    def __post_init__(self) -> None:
        check_number('width', self.width, above=0)

    def problem_with(self, numbers: NDArray[np.int64]) -> str:
        """Return what is missing among atoms with these ``numbers``, or an empty string."""
        return ''


@dataclass(frozen=True, kw_only=True)
class Geometry(CollectiveVariable):
    """A variable along a chain of atoms."""

    N_ATOMS: ClassVar[int] = 0

    atoms: Sequence[int]  #: indices in the start, from 0; of the images of the next atom, the nearest counts

    def __post_init__(self) -> None:
        super().__post_init__()
        good = isinstance(self.atoms, (list, tuple)) and len(self.atoms) == len(set(self.atoms)) == self.N_ATOMS
        if not good:
            raise ValueError(f'`atoms` must be {self.N_ATOMS} different indices of atoms, got {self.atoms!r}.')
        for atom in self.atoms:
            check_integer('atoms', atom, at_least=0)

    def problem_with(self, numbers: NDArray[np.int64]) -> str:
        """See :class:`CollectiveVariable`."""
        return _missing(self.atoms, numbers)


@dataclass(frozen=True, kw_only=True)
class Distance(Geometry):
    """Distance of two atoms in Å."""

    TYPE: ClassVar[str] = 'distance'
    N_ATOMS: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class Angle(Geometry):
    """Angle of three atoms in degrees, at the second."""

    TYPE: ClassVar[str] = 'angle'
    N_ATOMS: ClassVar[int] = 3


@dataclass(frozen=True, kw_only=True)
class Dihedral(Geometry):
    """Dihedral angle of four atoms in degrees, from -180 to 180."""

    TYPE: ClassVar[str] = 'dihedral'
    N_ATOMS: ClassVar[int] = 4
    PERIOD: ClassVar[float] = 360.0


def _missing(selection: str | Sequence[int], numbers: NDArray[np.int64]) -> str:
    """Return what of a selection is not among atoms with these ``numbers``, or an empty string."""
    if isinstance(selection, str):
        return '' if atomic_numbers[selection] in numbers else f'no {selection}'
    highest = max(selection, default=-1)
    return f'no atom {highest}' if highest >= len(numbers) else ''


def _check_selection(name: str, value: object) -> None:
    if isinstance(value, str):
        if value not in atomic_numbers or value == 'X':
            raise ValueError(f'`{name}` must be a chemical symbol or a list of indices of atoms, got {value!r}.')
        return
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'`{name}` must be a chemical symbol or a list of indices of atoms, got {value!r}.')
    for atom in value:
        check_integer(name, atom, at_least=0)


@dataclass(frozen=True, kw_only=True)
class Coordination(CollectiveVariable):
    """Mean coordination number: neighbours of each of ``centres``, counted by 1 / (1 + (r / radius)⁶).

    The count is shifted and stretched to end at zero at three times ``radius``.
    """

    TYPE: ClassVar[str] = 'coordination'

    radius: float  #: Å; at this distance a neighbour counts half
    centres: str | Sequence[int] = ()  #: a chemical symbol, or indices in the start; nothing means all atoms
    neighbours: str | Sequence[int] = ()  #: likewise

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number('radius', self.radius, above=0)
        for name in ('centres', 'neighbours'):
            _check_selection(name, getattr(self, name))

    def problem_with(self, numbers: NDArray[np.int64]) -> str:
        """See :class:`CollectiveVariable`."""
        return _missing(self.centres, numbers) or _missing(self.neighbours, numbers)


@dataclass(frozen=True, kw_only=True)
class Latent(CollectiveVariable):
    """A principal component of the model's invariant node features, averaged over the atoms of a frame.

    The components are those of rattled copies of the starts, each start taken about its own mean, in units of their
    standard deviation. So they need no knowledge of the system, and depend on model, starts and seed alone.
    """

    TYPE: ClassVar[str] = 'latent'

    width: float = 0.5  #: of a hill, in standard deviations of the rattled copies
    component: int = 0  #: 0 is the one of the largest variance
    rattle: float = 0.1  #: standard deviation of the displacements of the copies, Å

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer('component', self.component, at_least=0)
        check_number('rattle', self.rattle, above=0)


#: Variables by type.
VARIABLES: Final[dict[str, type[CollectiveVariable]]] = {
    variable.TYPE: variable for variable in (Distance, Angle, Dihedral, Coordination, Latent)
}


def read_variables(given: Sequence[Mapping[str, Any]]) -> list[CollectiveVariable]:
    """Return the variables, checked.

    :raises ValueError: naming the variable by its place in the list.
    """
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(f'`variables` must be a list of mappings with a `type` each, got {given!r}.')
    variables = []
    for number, item in enumerate(given):
        kind = item.get('type') if isinstance(item, Mapping) else item
        if kind not in VARIABLES:
            problem = unknown_name('type of variable', kind, VARIABLES)
            raise ValueError(f'`variables`, item {number}: {problem}')
        try:
            variables.append(from_dict(VARIABLES[kind], {key: item[key] for key in item if key != 'type'}))
        except ValueError as exception:
            raise ValueError(f'`variables`, item {number} ({kind}): {exception}') from exception
    return variables


def selected_atoms(selection: str | Sequence[int], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the atoms that a selection means among atoms with these ``numbers``."""
    if isinstance(selection, str):
        return np.flatnonzero(numbers == atomic_numbers[selection])
    return np.asarray(selection, dtype=np.int64) if len(selection) else np.arange(len(numbers))
