"""From :class:`ase.Atoms` to columns and back, and extended XYZ as MACE reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as ase_write

if TYPE_CHECKING:
    from aiida_mlipal.science.configurations import Configurations

__all__ = ('atoms_of', 'columns_of', 'mace_frames', 'write_extxyz')


def columns_of(frames: Sequence[Atoms], *, labels: bool) -> dict[str, Any]:
    """Return the columns that ``frames`` (at least one) fill.

    :param labels: take energy, forces and stress from each frame's attached calculator (stress may be missing).
    :raises ValueError: for a frame without atoms.
    """
    if any(len(atoms) == 0 for atoms in frames):
        raise ValueError('a frame has no atoms.')
    cells = np.array([atoms.cell.array for atoms in frames])
    columns: dict[str, Any] = {
        'n_atoms': np.array([len(atoms) for atoms in frames]),
        'numbers': np.concatenate([atoms.numbers for atoms in frames]),
        'positions': np.concatenate([atoms.positions for atoms in frames]),
        'cell': cells,
        'reference_cell': cells,
        'pbc': np.array([atoms.pbc for atoms in frames]),
        'initial_moments': np.concatenate([atoms.get_initial_magnetic_moments() for atoms in frames]),
    }
    if labels:
        results = [atoms.calc.results for atoms in frames]
        columns['energy'] = [result['energy'] for result in results]
        columns['forces'] = np.concatenate([result['forces'] for result in results])
        columns['stress'] = [result.get('stress', np.full(6, np.nan)) for result in results]
        columns['status'] = ['labelled'] * len(frames)
    return columns


def atoms_of(configurations: Configurations, index: int) -> Atoms:
    """Return one frame, its label (if accepted) as a single-point calculator."""
    atoms = slice(*configurations.offsets[index : index + 2])
    frame = Atoms(
        numbers=configurations.numbers[atoms],
        positions=configurations.positions[atoms],
        cell=configurations.cell[index],
        pbc=configurations.pbc[index],
        info={'frame_id': str(configurations.frame_id[index])},
    )
    moments = configurations.initial_moments[atoms]
    if moments.any():
        frame.set_initial_magnetic_moments(moments)
    if configurations.status[index] == 'labelled':
        results: dict[str, Any] = {
            'energy': float(configurations.energy[index]),
            'forces': configurations.forces[atoms].copy(),
        }
        if np.isfinite(configurations.stress[index]).all():
            results['stress'] = configurations.stress[index].copy()
        if np.isfinite(configurations.magnetization[index]):
            results['magmom'] = float(configurations.magnetization[index])
        frame.calc = SinglePointCalculator(frame, **results)
    return frame


def mace_frames(configurations: Configurations) -> Iterator[Atoms]:
    """Yield the frames one by one with the keys MACE reads: ``REF_energy``, ``REF_forces``, ``REF_stress``.

    Only frames that are periodic in three directions get a stress: MACE replaces the cell vector of any other
    direction, so that its stress refers to the volume of another cell than the label's.
    """
    for index in range(len(configurations)):
        atoms = atoms_of(configurations, index)
        calculator, atoms.calc = atoms.calc, None
        if calculator is not None:
            atoms.info['REF_energy'] = calculator.results['energy']
            atoms.arrays['REF_forces'] = calculator.results['forces']
            if 'stress' in calculator.results and atoms.pbc.all():
                atoms.info['REF_stress'] = calculator.results['stress']
        atoms.info.update(role=str(configurations.role[index]), origin=str(configurations.origin[index]) or 'unknown')
        yield atoms


def write_extxyz(configurations: Configurations, path: str | Path) -> None:
    """Write :func:`mace_frames` as extended XYZ."""
    ase_write(str(path), list(mace_frames(configurations)), format='extxyz')
