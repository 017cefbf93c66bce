"""Conversion factors to this package's units (eV, Å, K), from the CODATA values of :mod:`ase.units`."""

from __future__ import annotations

from typing import Final

from ase import units

__all__ = ('BOHR', 'GPA', 'HARTREE_TO_EV', 'KB', 'RY_TO_EV')

RY_TO_EV: Final[float] = float(units.Rydberg)  #: eV per Rydberg
HARTREE_TO_EV: Final[float] = float(units.Hartree)  #: eV per Hartree
BOHR: Final[float] = float(units.Bohr)  #: Å per Bohr radius
GPA: Final[float] = float(units.GPa)  #: eV/Å³ per GPa
KB: Final[float] = float(units.kB)  #: eV per K
