"""The files that CP2K writes along a relaxation or molecular dynamics: positions, forces, cells, the last restart."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ('XyzStep', 'read_cells', 'read_restart', 'read_xyz')

_COMMENT: Final = re.compile(r'i =\s*(\d+),.*?E =\s*(\S+)')


class XyzStep(NamedTuple):
    """One step of an xyz file."""

    number: int  #: CP2K's number of the step
    energy: float  #: the potential energy, in the file's unit (Ha), rounded to 10 decimals
    values: NDArray[np.float64]  #: positions or forces, shape ``(n_atoms, 3)``, in the file's unit


def read_xyz(text: str) -> list[XyzStep]:
    """Return the steps of ``*-pos-1.xyz`` or ``*-frc-1.xyz``, without those that CP2K had no time to write.

    Steps whose numbers Fortran could not print are left out.
    """
    lines = text.splitlines()
    steps: list[XyzStep] = []
    start = 0
    while start < len(lines) and lines[start].strip().isdigit():
        end = start + 2 + int(lines[start])
        if end > len(lines):
            break
        comment = _COMMENT.search(lines[start + 1])
        values = _rows([line.split()[1:4] for line in lines[start + 2 : end]])
        if comment is not None and values is not None:
            steps.append(XyzStep(int(comment[1]), float(comment[2]), values))
        start = end
    return steps


def read_cells(text: str) -> dict[int, NDArray[np.float64]]:
    """Return the cell vectors (Å, one per row) of ``*-1.cell`` by the number of the step."""
    cells = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 12 and words[0].isdigit():
            values = _rows([words[2:5], words[5:8], words[8:11]])
            if values is not None:
                cells[int(words[0])] = values
    return cells


def read_restart(text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return cell and positions (Å) of a restart file, or ``None`` if it does not have them in Å."""
    cell = re.search(r'^\s*&CELL\s*\n(\s*A .*?)^\s*&END CELL', text, re.MULTILINE | re.DOTALL)
    coordinates = re.search(r'^\s*&COORD\s*\n(.*?)^\s*&END COORD', text, re.MULTILINE | re.DOTALL)
    if cell is None or coordinates is None:
        return None
    vectors = _rows([words[1:] for line in cell[1].splitlines() if (words := line.split()) and words[0] in 'ABC'])
    positions = _rows([line.split()[1:4] for line in coordinates[1].splitlines()])
    if vectors is None or positions is None or vectors.shape != (3, 3):
        return None
    return vectors, positions


def _rows(words: list[list[str]]) -> NDArray[np.float64] | None:
    """Return rows of three finite numbers, or ``None``."""
    try:
        values = np.array(words, dtype=float)
    except ValueError:
        return None
    return values if values.ndim == 2 and values.shape[1] == 3 and np.isfinite(values).all() else None
