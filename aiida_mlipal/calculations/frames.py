"""What DFT codes are given of a frame: kinds of atoms, structure, k-point mesh, and link labels for what is shared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from aiida import orm
from ase.data import chemical_symbols
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations

__all__ = ('frame_kinds', 'frame_structure', 'kpoint_mesh', 'mesh_key', 'variant_key')

#: µB. Moments closer than this are one kind of atom.
_MOMENT_DIGITS: Final = 4


def frame_kinds(frames: Configurations, index: int) -> tuple[list[str], dict[str, tuple[str, float]]]:
    """Return the kind of each atom in order, and by kind its element and initial moment (µB).

    Atoms of one element and one moment are one kind. An element with several moments gives Fe1, Fe2 ... from the
    largest moment down, any other the element itself.
    """
    atoms = slice(frames.offsets[index], frames.offsets[index + 1])
    symbols = [chemical_symbols[number] for number in frames.numbers[atoms]]
    moments = np.round(frames.initial_moments[atoms], _MOMENT_DIGITS).tolist()
    names: dict[tuple[str, float], str] = {}
    for symbol in sorted(set(symbols)):
        found = sorted(
            {moment for other, moment in zip(symbols, moments, strict=True) if other == symbol}, reverse=True
        )
        for rank, moment in enumerate(found, start=1):
            names[symbol, moment] = f'{symbol}{rank}' if len(found) > 1 else symbol
    return [names[key] for key in zip(symbols, moments, strict=True)], {name: key for key, name in names.items()}


def frame_structure(
    frames: Configurations,
    index: int,
    cell: NDArray[np.float64] | None = None,
    positions: NDArray[np.float64] | None = None,
) -> orm.StructureData:
    """Return a frame as a structure, atoms in the order of the frame, named by :func:`frame_kinds`.

    :param cell: Å, in place of that of the frame; ``positions`` (Å) likewise.
    """
    cell = frames.cell[index] if cell is None else cell
    if positions is None:
        positions = frames.positions[frames.offsets[index] : frames.offsets[index + 1]]
    names, kinds = frame_kinds(frames, index)
    structure = orm.StructureData(cell=cell.tolist(), pbc=frames.pbc[index].tolist())
    for name, position in zip(names, positions.tolist(), strict=True):
        structure.append_atom(position=position, symbols=kinds[name][0], name=name)
    return structure


def kpoint_mesh(
    frames: Configurations, index: int, distance: float, offset: list[float]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return mesh and offset of a frame: those of its reference cell; Γ alone for isolated atoms and molecules.

    Along a direction that is not periodic there is one k-point and no offset.
    """
    if frames.role[index] == 'isolated_atom' or not frames.pbc[index].any():
        return (1, 1, 1), (0.0, 0.0, 0.0)
    reciprocal = 2 * np.pi * np.linalg.norm(np.linalg.inv(frames.reference_cell[index]), axis=0)
    # The tolerance keeps a length that is a whole multiple of the distance from being rounded up.
    counts = np.maximum(1, np.ceil(reciprocal / distance - 1e-8)).astype(int)
    periodic = frames.pbc[index]
    counts[~periodic] = 1
    shift = np.where(periodic, [0.5 if value else 0.0 for value in offset], 0.0)
    return tuple(counts.tolist()), tuple(shift.tolist())


def mesh_key(mesh: tuple[int, ...], offset: tuple[float, ...]) -> str:
    """Return the link label of a k-point mesh."""
    shifts = ['1' if value else '0' for value in offset]
    return '_'.join(['mesh', *map(str, mesh), 'shift', *shifts])


def variant_key(parameters: Mapping[str, Any]) -> str:
    """Return the link label of one set of namelists."""
    text = json.dumps(parameters, sort_keys=True)
    return 'parameters_' + hashlib.sha256(text.encode()).hexdigest()[:12]
