"""Energies of isolated atoms (E0): the zero from which a potential counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase.data import chemical_symbols

from aiida_mlipal.science.configurations import Configurations

__all__ = ('from_isolated_atoms', 'from_mapping', 'least_squares')


def from_isolated_atoms(configurations: Configurations) -> dict[int, float]:
    """Return the energy (eV) per atomic number: the lowest over the labelled multiplicities of each isolated atom.

    :raises ValueError: if an element of the training frames has no labelled isolated atom.
    """
    atoms = configurations.take(configurations.has_role('isolated_atom') & configurations.is_labelled)
    energies: dict[int, float] = {}
    for number, energy in zip(atoms.numbers.tolist(), atoms.energy.tolist(), strict=True):
        energies[number] = min(energy, energies.get(number, np.inf))
    needed = _elements(configurations)
    missing = [chemical_symbols[number] for number in needed if number not in energies]
    if missing:
        raise ValueError(
            f'no labelled isolated atom for {missing}: label frames with role `isolated_atom` (the generator '
            "`isolated_atoms` makes them), or in the training's settings give energies, "
            f'`e0s: {{{missing[0]}: ENERGY}}`, or set `e0s: least_squares`.'
        )
    return {number: energies[number] for number in needed}


def from_mapping(configurations: Configurations, energies: Mapping[str, float]) -> dict[int, float]:
    """Return those of ``energies`` (eV, by chemical symbol) that the training frames need, by atomic number.

    :raises ValueError: if one is missing.
    """
    needed = _elements(configurations)
    missing = [chemical_symbols[number] for number in needed if chemical_symbols[number] not in energies]
    if missing:
        raise ValueError(
            f'`e0s` has no energy for {missing}, which the training frames hold: add `{missing[0]}: ENERGY` (eV), or '
            'take those frames out.'
        )
    return {number: float(energies[chemical_symbols[number]]) for number in needed}


def _elements(configurations: Configurations) -> list[int]:
    """Return the atomic numbers in the frames that train or validate."""
    numbers: list[int] = np.unique(configurations.take(configurations.has_role('train', 'validation')).numbers).tolist()
    return numbers


def least_squares(configurations: Configurations) -> dict[int, float]:
    """Return the energies (eV) per atomic number that fit the labelled training frames best, by least squares.

    They depend on the composition of the data and are no energies of atoms; the shortest solution is taken where the
    compositions do not determine them.
    """
    frames = configurations.take(configurations.has_role('train', 'validation') & configurations.is_labelled)
    numbers = np.unique(frames.numbers)
    counts = np.zeros((len(frames), len(numbers)))
    np.add.at(counts, (frames.atom_frame, np.searchsorted(numbers, frames.numbers)), 1)
    solution = np.linalg.lstsq(counts, frames.energy, rcond=None)[0]
    return dict(zip(numbers.tolist(), solution.tolist(), strict=True))
