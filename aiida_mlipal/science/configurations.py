"""Many atomic frames in columns: the one container for seeds, candidate pools and labelled datasets.

Compositions, sizes and periodicity may differ from frame to frame.
Units: Å, eV, eV/Å, eV/Å³ (Voigt order xx, yy, zz, yz, xz, xy; ASE's sign, positive under tension), K.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from aiida_mlipal.science import ase_frames
from aiida_mlipal.science.columns import Columns, per_atom, per_frame

__all__ = ('ROLES', 'STATUSES', 'Configurations', 'frame_id_of')

STATUSES: Final = ('unlabelled', 'labelled', 'rejected')
#: What a frame may be used for. Frames of the random stream (``calibration``, ``test``) are never trained on, nor are
#: those that repeat one of them (``withheld``).
ROLES: Final = ('train', 'candidate', 'calibration', 'test', 'isolated_atom', 'validation', 'withheld')


def frame_id_of(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    charge: int,
    multiplicity: int,
    reference_cell: NDArray[np.float64],
    initial_moments: NDArray[np.float64],
) -> str:
    """Return the identity of a frame: the letter f and 31 hexadecimal digits of the SHA-256 of its exact bytes.

    It is assigned once, when a frame enters its first node, and carried ever after. Wrapping a position or a trip
    through single precision gives another identity, so it is never recomputed. Whether two frames are the same
    geometry is another question, see :mod:`aiida_mlipal.science.duplicates`.
    """
    digest = hashlib.sha256()
    for array, dtype in (
        (numbers, '<i8'),
        (positions, '<f8'),
        (cell, '<f8'),
        (pbc, '|b1'),
        ([charge, multiplicity], '<i8'),
        (reference_cell, '<f8'),
    ):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    if np.any(initial_moments):  # a frame without any keeps the identity it had before moments were known here
        digest.update(np.ascontiguousarray(initial_moments, dtype='<f8').tobytes())
    return 'f' + digest.hexdigest()[:31]  # a letter first, so that no reader takes it for a number


@dataclass(frozen=True, eq=False, kw_only=True)
class Configurations(Columns):
    """Immutable columns of many frames. Build with :meth:`from_atoms`, :meth:`concatenate` or :meth:`load`.

    ``multiplicity`` 0 means that the spin is left to the level of theory. ``reference_cell`` is the cell of the parent
    structure, from which a labelling engine derives a k-point mesh that stays the same through a strain series.
    ``initial_moments`` (µB per atom) say which collinear magnetic state is meant; ``magnetization`` (µB per cell) is
    what a label came out with, ``scf_force_error`` (eV/Å) how far its forces may be off because the SCF is not exact.
    ``status`` is one of :data:`STATUSES`, with a ``reason`` for each rejected label; ``role`` one of :data:`ROLES`.
    ``origin`` names the generator, the kind of exploration plan or what is special about a visited frame, ``plan`` the
    plan by its name, ``trajectory`` groups correlated frames, ``parent`` is the ``frame_id`` of the frame this one was
    made from; ``temperature`` and ``pressure`` (eV/Å³) are those that a simulation was set to.
    """

    numbers: NDArray[np.int64] = field(metadata=per_atom('<i8'))
    positions: NDArray[np.float64] = field(metadata=per_atom('<f8', 3))
    cell: NDArray[np.float64] = field(metadata=per_frame('<f8', 3, 3))
    pbc: NDArray[np.bool_] = field(metadata=per_frame('|b1', 3))
    charge: NDArray[np.int64] = field(metadata=per_frame('<i8', default=0))
    multiplicity: NDArray[np.int64] = field(metadata=per_frame('<i8', default=0))
    initial_moments: NDArray[np.float64] = field(metadata=per_atom('<f8', default=0.0))
    reference_cell: NDArray[np.float64] = field(metadata=per_frame('<f8', 3, 3))
    energy: NDArray[np.float64] = field(metadata=per_frame('<f8', default=np.nan))
    forces: NDArray[np.float64] = field(metadata=per_atom('<f8', 3, default=np.nan))
    stress: NDArray[np.float64] = field(metadata=per_frame('<f8', 6, default=np.nan))
    magnetization: NDArray[np.float64] = field(metadata=per_frame('<f8', default=np.nan))
    scf_force_error: NDArray[np.float64] = field(metadata=per_frame('<f8', default=np.nan))
    status: NDArray[np.str_] = field(metadata=per_frame('str', default='unlabelled'))
    reason: NDArray[np.str_] = field(metadata=per_frame('str', default=''))
    role: NDArray[np.str_] = field(metadata=per_frame('str', default='train'))
    origin: NDArray[np.str_] = field(metadata=per_frame('str', default=''))
    trajectory: NDArray[np.str_] = field(metadata=per_frame('str', default=''))
    parent: NDArray[np.str_] = field(metadata=per_frame('str', default=''))
    step: NDArray[np.int64] = field(metadata=per_frame('<i8', default=-1))
    temperature: NDArray[np.float64] = field(metadata=per_frame('<f8', default=np.nan))
    plan: NDArray[np.str_] = field(metadata=per_frame('str', default=''))
    pressure: NDArray[np.float64] = field(metadata=per_frame('<f8', default=np.nan))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (('status', STATUSES), ('role', ROLES)):
            unknown = sorted(set(getattr(self, name).tolist()) - set(allowed))
            if unknown:
                raise ValueError(f'column `{name}` holds {unknown}, expected values of {list(allowed)}.')

    @classmethod
    def from_atoms(cls, frames: Sequence[Atoms], *, labels: bool = False, **columns: Any) -> Self:
        """Return the columns of ASE ``frames``; here each frame receives its ``frame_id``.

        :param labels: take energy, forces and stress from each frame's attached calculator (stress may be missing).
        :param columns: further columns, either one value for all frames or one row per frame. ``reference_cell``
            defaults to each frame's own cell.
        :raises ValueError: for unknown columns, empty frames, or wrong shapes.
        """
        schema = cls.schema()
        unknown = sorted(set(columns) - set(schema))
        if unknown:
            raise ValueError(f'unknown columns {unknown}, expected some of {list(schema)}.')
        if not frames:
            return cls.empty()
        data = ase_frames.columns_of(frames, labels=labels)
        rows = {False: len(frames), True: len(data['numbers'])}
        for name, value in columns.items():
            column = schema[name]
            single = isinstance(value, str) or np.ndim(value) == len(column.row)
            data[name] = [value] * rows[column.is_per_atom] if single else value
        if 'frame_id' in data:
            return cls.from_columns(data)
        made = cls.from_columns({**data, 'frame_id': [''] * len(frames)})
        return made.with_columns(
            frame_id=[
                frame_id_of(
                    made.numbers[start:stop],
                    made.positions[start:stop],
                    made.cell[i],
                    made.pbc[i],
                    int(made.charge[i]),
                    int(made.multiplicity[i]),
                    made.reference_cell[i],
                    made.initial_moments[start:stop],
                )
                for i, (start, stop) in enumerate(pairwise(made.offsets))
            ]
        )

    @property
    def elements(self) -> list[str]:
        """Chemical symbols present, by atomic number."""
        return [chemical_symbols[number] for number in np.unique(self.numbers)]

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Mask of frames with an accepted label, shape ``(n_frames,)``."""
        mask: NDArray[np.bool_] = self.status == 'labelled'
        return mask

    def has_role(self, *roles: str) -> NDArray[np.bool_]:
        """Mask of frames whose role is one of ``roles``, shape ``(n_frames,)``."""
        return np.isin(self.role, roles)

    def group_by_composition(self) -> dict[str, NDArray[np.int64]]:
        """Return frame indices by chemical formula (Hill notation), formulas in alphabetical order."""
        groups: dict[str, list[int]] = {}
        for i, (start, stop) in enumerate(pairwise(self.offsets)):
            formula = Atoms(numbers=self.numbers[start:stop]).get_chemical_formula(mode='hill')
            groups.setdefault(formula, []).append(i)
        return {formula: np.array(groups[formula], dtype=np.int64) for formula in sorted(groups)}

    def atoms(self, index: int) -> Atoms:
        """Return one frame as :class:`ase.Atoms`, its label (if accepted) as a single-point calculator."""
        return ase_frames.atoms_of(self, index)

    def to_atoms(self) -> list[Atoms]:
        """Return all frames as :class:`ase.Atoms`."""
        return [self.atoms(index) for index in range(len(self))]

    def write_extxyz(self, path: str | Path) -> None:
        """Write extended XYZ with the keys MACE reads: ``REF_energy``, ``REF_forces``, ``REF_stress``.

        Only frames that are periodic in three directions get a stress: MACE replaces the cell vector of any other
        direction, so that its stress refers to the volume of another cell than the label's.
        """
        ase_frames.write_extxyz(self, path)
