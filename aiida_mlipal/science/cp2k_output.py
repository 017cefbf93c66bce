"""What CP2K printed about single points and ionic steps: energy, forces, stress, spin, and whether the SCF converged.

Both styles of the tables are read: those of version 2024 and before (``ATOMIC FORCES in [a.u.]``, up to 7 also
``STRESS TENSOR [GPa]``) and those with a bar since then (``FORCES|``, ``STRESS|``, in GPa or bar). CP2K prints the
virial divided by the volume, which is positive under compression; ASE's sign is the opposite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.units import BOHR, GPA, HARTREE_TO_EV

__all__ = ('SinglePoint', 'read_evaluations', 'read_single_point')

_ENERGY: Final = re.compile(r'^ ENERGY\| Total FORCE_EVAL.*[\[(](.+?)[\])]:?\s+(\S+)\s*$', re.MULTILINE)
_FORCES: Final = re.compile(r'^ (?:ATOMIC FORCES in|FORCES\| Atomic forces) \[(.+?)\]', re.MULTILINE)
_STRESS: Final = re.compile(
    r'^ (?:(?:NUMERICAL )?STRESS TENSOR|STRESS\| (?:Analytical|Numerical) stress tensor) \[(.+?)\]', re.MULTILINE
)
#: Charge and spin of the whole cell, the last line of the Mulliken analysis of an unrestricted calculation.
_SPIN: Final = re.compile(r'^ # Total charge and spin\s+\S+\s+\S+\s+\S+\s+(\S+)\s*$', re.MULTILINE)

_NOT_CONVERGED: Final = 'SCF run NOT converged'

_ENERGY_UNITS: Final = {'a.u.': HARTREE_TO_EV, 'hartree': HARTREE_TO_EV}
_FORCE_UNITS: Final = {'a.u.': HARTREE_TO_EV / BOHR, 'hartree/bohr': HARTREE_TO_EV / BOHR, 'ev/angstrom': 1.0}
_STRESS_UNITS: Final = {'gpa': GPA, 'bar': 1e-4 * GPA}


@dataclass(frozen=True)
class SinglePoint:
    """One evaluation of energy and forces. What was not printed, or is no number, is ``None``."""

    energy: float | None  #: eV, the last total energy; with smearing the free energy, which belongs to the forces
    forces: NDArray[np.float64] | None  #: eV/Å, shape ``(n_atoms, 3)``
    stress: NDArray[np.float64] | None  #: eV/Å³, Voigt order, positive under tension
    magnetization: float | None  #: µB per cell; unrestricted calculations print it
    converged: bool  #: whether every SCF cycle converged


def read_single_point(text: str) -> SinglePoint:
    """Return what the output file of a CP2K single point says.

    :raises ValueError: for a unit that is not known here.
    """
    return SinglePoint(
        energy=_energy(text),
        forces=_forces(text),
        stress=_stress(text),
        magnetization=_last_number(_SPIN, text),
        converged=_NOT_CONVERGED not in text,
    )


def read_evaluations(text: str) -> list[SinglePoint]:
    """Return every evaluation of the energy, in order: ionic steps, and the trials of a line search between them.

    SCF and spin stand before the energy of an evaluation, forces and stress behind it.

    :raises ValueError: for a unit that is not known here.
    """
    matches = list(_ENERGY.finditer(text))
    ends = [0, *(match.end() for match in matches)]
    starts = [*(match.start() for match in matches), len(text)]
    evaluations = []
    for index, match in enumerate(matches):
        before, behind = text[ends[index] : starts[index]], text[ends[index + 1] : starts[index + 1]]
        evaluations.append(
            SinglePoint(
                energy=_energy(match[0]),
                forces=_forces(behind),
                stress=_stress(behind),
                magnetization=_last_number(_SPIN, before),
                converged=_NOT_CONVERGED not in before,
            )
        )
    return evaluations


def _factor(units: dict[str, float], unit: str, what: str) -> float:
    if unit.lower() not in units:
        raise ValueError(f'CP2K printed {what} in `{unit}`, expected one of {sorted(units)}: remove the unit keyword.')
    return units[unit.lower()]


def _last_number(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.findall(text)
    row = _numbers([found[-1]]) if found else None
    return None if row is None else row[0]


def _numbers(words: list[str]) -> list[float] | None:
    """Return finite numbers, or ``None``: Fortran prints stars where a number does not fit."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _energy(text: str) -> float | None:
    found = list(_ENERGY.finditer(text))
    if not found:
        return None
    values = _numbers([found[-1][2]])
    return None if values is None else values[0] * _factor(_ENERGY_UNITS, found[-1][1], 'the energy')


def _rows_after(text: str, start: int) -> Iterator[list[str]]:
    """Yield the words of the lines after ``start``, without the bar of the newer style and without empty lines."""
    for line in text[start:].splitlines()[1:]:
        words = line.split()
        if words and words[0] in ('FORCES|', 'STRESS|'):
            words = words[1:]
        if words:
            yield words


def _forces(text: str) -> NDArray[np.float64] | None:
    found = list(_FORCES.finditer(text))
    if not found:
        return None
    # The older table has number, kind and element before the components, the newer one a number, and the norm behind.
    components = slice(1, 4) if 'FORCES|' in found[-1][0] else slice(3, 6)
    rows = []
    for words in _rows_after(text, found[-1].start()):
        if words[0].isdigit():
            row = _numbers(words[components])
            if row is None or len(row) != 3:
                return None
            rows.append(row)
        elif rows:
            break
    return np.array(rows) * _factor(_FORCE_UNITS, found[-1][1], 'forces') if rows else None


def _stress(text: str) -> NDArray[np.float64] | None:
    found = list(_STRESS.finditer(text))
    if not found:
        return None
    rows: list[list[float]] = []
    for words in _rows_after(text, found[-1].start()):
        if words[0].lower() == 'xyz'[len(rows)] and len(words) == 4:
            row = _numbers(words[1:])
            if row is None:
                return None
            rows.append(row)
        if len(rows) == 3:
            break
    if len(rows) < 3:
        return None
    tensor = -np.array(rows) * _factor(_STRESS_UNITS, found[-1][1], 'the stress')
    return tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
