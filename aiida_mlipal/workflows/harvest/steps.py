"""Ionic steps of one calculation, as frames with labels: what all codes have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations

__all__ = ('is_isolated', 'labelled_steps')

#: Å. An atom farther than this from its images is an isolated one.
_ISOLATED: Final = 10.0


def is_isolated(n_atoms: int, cell: Any) -> bool:
    """Return whether a cell is a box around a single atom."""
    if n_atoms != 1:
        return False
    heights = 1 / np.linalg.norm(np.linalg.inv(np.asarray(cell, dtype=float)), axis=0)
    return bool((heights >= _ISOLATED).all())


def labelled_steps(
    atoms: Atoms,
    positions: NDArray[np.float64],
    cells: NDArray[np.float64],
    labels: Mapping[str, NDArray[np.float64]],
    reasons: Sequence[str],
    *,
    kind: str,
    initial_moments: NDArray[np.float64],
    **columns: Any,
) -> Configurations:
    """Return ionic steps as frames, labelled where ``reasons`` is empty and rejected elsewhere.

    :param atoms: what was computed first: elements, periodic directions and the reference cell.
    :param positions: Å, shape ``(n_steps, n_atoms, 3)``.
    :param cells: Å, shape ``(n_steps, 3, 3)``.
    :param labels: ``energy``, ``forces``, ``stress`` and further columns, one row per step.
    :param kind: what was done, part of the name of the trajectory; the rest of it depends on the steps alone.
    :param initial_moments: µB, one per atom.
    :param columns: the same for all steps, or one value per step.
    """
    n_steps, good = len(positions), np.array([not reason for reason in reasons])
    name = hashlib.sha256(np.ascontiguousarray(positions).tobytes() + np.ascontiguousarray(cells).tobytes()).hexdigest()
    kept: dict[str, Any] = {
        column: np.where(good.reshape(-1, *([1] * (values.ndim - 1))), values, np.nan)
        for column, values in labels.items()
    }
    kept['forces'] = kept['forces'].reshape(-1, 3)
    frames = [
        Atoms(numbers=atoms.numbers, positions=positions[step], cell=cells[step], pbc=atoms.pbc)
        for step in range(n_steps)
    ]
    return Configurations.from_atoms(
        frames,
        **kept,
        **{'step': np.arange(n_steps), **columns},
        initial_moments=np.tile(initial_moments, n_steps),
        reference_cell=atoms.cell.array,
        status=np.where(good, 'labelled', 'rejected'),
        reason=list(reasons),
        role='isolated_atom' if is_isolated(len(atoms), atoms.cell.array) else 'train',
        origin='harvest',
        trajectory=f'{kind}-{name[:12]}',
    )
