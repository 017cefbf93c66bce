"""Many atomic frames in columns: the one container for seeds, candidate pools and labelled datasets.

Per-frame columns have ``n_frames`` rows; per-atom columns (``numbers``, ``positions``, ``forces``) have
``n_total_atoms`` rows in frame order. Compositions, sizes and periodicity may differ from frame to frame.
Units: Å, eV, eV/Å, eV/Å³ (Voigt order xx, yy, zz, yz, xz, xy; ASE's sign, positive under tension), K.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as ase_write
from numpy.typing import NDArray

__all__ = ('ROLES', 'STATUSES', 'Configurations', 'frame_id_of')

STATUSES: Final = ('unlabelled', 'labelled', 'rejected')
#: What a frame may be used for. Frames of the random stream (``calibration``, ``test``) are never trained on.
ROLES: Final = ('train', 'candidate', 'calibration', 'test', 'isolated_atom', 'validation')

_PER_ATOM: Final = ('numbers', 'positions', 'initial_moments', 'forces')
_TEXT: Final = ('frame_id', 'status', 'reason', 'role', 'origin', 'trajectory', 'parent')
#: column -> (dtype, shape of one row, default); ``None`` means that the column must be given.
_COLUMNS: Final[dict[str, tuple[str, tuple[int, ...], Any]]] = {
    'frame_id': ('str', (), None),
    'n_atoms': ('<i8', (), None),
    'numbers': ('<i8', (), None),
    'positions': ('<f8', (3,), None),
    'cell': ('<f8', (3, 3), None),
    'pbc': ('|b1', (3,), None),
    'charge': ('<i8', (), 0),
    'multiplicity': ('<i8', (), 0),
    'initial_moments': ('<f8', (), 0.0),
    'reference_cell': ('<f8', (3, 3), None),
    'energy': ('<f8', (), np.nan),
    'forces': ('<f8', (3,), np.nan),
    'stress': ('<f8', (6,), np.nan),
    'magnetization': ('<f8', (), np.nan),
    'scf_force_error': ('<f8', (), np.nan),
    'status': ('str', (), 'unlabelled'),
    'reason': ('str', (), ''),
    'role': ('str', (), 'train'),
    'origin': ('str', (), ''),
    'trajectory': ('str', (), ''),
    'parent': ('str', (), ''),
    'step': ('<i8', (), -1),
    'temperature': ('<f8', (), np.nan),
}


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


def _with_defaults(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``columns`` with the default of each column that is missing and has one."""
    n_frames, n_total = len(columns['n_atoms']), len(columns['numbers'])
    missing = {
        name: np.full((n_total if name in _PER_ATOM else n_frames, *row), default)
        for name, (_, row, default) in _COLUMNS.items()
        if name not in columns and default is not None
    }
    return {**columns, **missing}


def _column(name: str, values: Any, n_rows: int) -> NDArray[Any]:
    """Return ``values`` as the canonical read-only array of column ``name``, or say what is wrong with them."""
    dtype, row, _ = _COLUMNS[name]
    # Text columns take the narrowest dtype that holds them, so that equal content has equal bytes.
    array = np.array([str(value) for value in values] if dtype == 'str' else values, dtype=dtype, order='C')
    if array.size == 0:
        array = array.reshape((0, *row))
    if array.shape != (n_rows, *row):
        raise ValueError(f'column `{name}` must have shape {(n_rows, *row)}, got {array.shape}.')
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False, kw_only=True)
class Configurations:
    """Immutable columns of many frames. Build with :meth:`from_atoms`, :meth:`concatenate` or :meth:`load`.

    ``multiplicity`` 0 means that the spin is left to the level of theory. ``reference_cell`` is the cell of the parent
    structure, from which a labelling engine derives a k-point mesh that stays the same through a strain series.
    ``initial_moments`` (µB per atom) say which collinear magnetic state is meant; ``magnetization`` (µB per cell) is
    what a label came out with, ``scf_force_error`` (eV/Å) how far its forces may be off because the SCF is not exact.
    ``status`` is one of :data:`STATUSES`, with a ``reason`` for each rejected label; ``role`` one of :data:`ROLES`.
    ``origin`` names the generator or exploration plan, ``trajectory`` groups correlated frames, ``parent`` is the
    ``frame_id`` of the frame this one was made from.
    """

    frame_id: NDArray[np.str_]
    n_atoms: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    charge: NDArray[np.int64]
    multiplicity: NDArray[np.int64]
    initial_moments: NDArray[np.float64]
    reference_cell: NDArray[np.float64]
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]
    magnetization: NDArray[np.float64]
    scf_force_error: NDArray[np.float64]
    status: NDArray[np.str_]
    reason: NDArray[np.str_]
    role: NDArray[np.str_]
    origin: NDArray[np.str_]
    trajectory: NDArray[np.str_]
    parent: NDArray[np.str_]
    step: NDArray[np.int64]
    temperature: NDArray[np.float64]

    def __post_init__(self) -> None:
        n_frames = len(self.frame_id)
        n_total = int(np.sum(self.n_atoms)) if n_frames else 0
        for field in fields(self):
            rows = n_total if field.name in _PER_ATOM else n_frames
            object.__setattr__(self, field.name, _column(field.name, getattr(self, field.name), rows))
        for name, allowed in (('status', STATUSES), ('role', ROLES)):
            unknown = sorted(set(getattr(self, name).tolist()) - set(allowed))
            if unknown:
                raise ValueError(f'column `{name}` holds {unknown}, expected values of {list(allowed)}.')

    # -- size and access -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.frame_id)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First atom row of each frame and the end, shape ``(n_frames + 1,)``."""
        return np.concatenate(([0], np.cumsum(self.n_atoms))).astype(np.int64)

    @property
    def atom_frame(self) -> NDArray[np.int64]:
        """Frame index of each atom row, shape ``(n_total_atoms,)``."""
        return np.repeat(np.arange(len(self)), self.n_atoms)

    @property
    def elements(self) -> list[str]:
        """Chemical symbols present, by atomic number."""
        from ase.data import chemical_symbols

        return [chemical_symbols[number] for number in np.unique(self.numbers)]

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Mask of frames with an accepted label, shape ``(n_frames,)``."""
        mask: NDArray[np.bool_] = self.status == 'labelled'
        return mask

    def has_role(self, *roles: str) -> NDArray[np.bool_]:
        """Mask of frames whose role is one of ``roles``, shape ``(n_frames,)``."""
        return np.isin(self.role, roles)

    def index_of(self, frame_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the row of each identity.

        :raises KeyError: if one is not here.
        """
        rows = {frame: index for index, frame in enumerate(self.frame_id.tolist())}
        try:
            return np.array([rows[str(frame)] for frame in frame_ids], dtype=np.int64)
        except KeyError as exception:
            raise KeyError(f'frame {exception} is not among these {len(self)} frames.') from None

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return all columns by name, in declaration order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    # -- construction --------------------------------------------------------------------------------------------

    @classmethod
    def empty(cls) -> Self:
        """Return a container without frames."""
        return cls(**{name: [] for name in _COLUMNS})  # type: ignore[arg-type]

    @classmethod
    def from_atoms(cls, frames: Sequence[Atoms], *, labels: bool = False, **columns: Any) -> Self:
        """Return the columns of ASE ``frames``; here each frame receives its ``frame_id``.

        :param labels: take energy, forces and stress from each frame's attached calculator (stress may be missing).
        :param columns: further columns, either one value for all frames or one row per frame. ``reference_cell``
            defaults to each frame's own cell.
        :raises ValueError: for unknown columns, empty frames, or wrong shapes.
        """
        unknown = sorted(set(columns) - set(_COLUMNS))
        if unknown:
            raise ValueError(f'unknown columns {unknown}, expected some of {list(_COLUMNS)}.')
        if any(len(atoms) == 0 for atoms in frames):
            raise ValueError('a frame has no atoms.')
        if not frames:
            return cls.empty()
        n_atoms = np.array([len(atoms) for atoms in frames])
        data: dict[str, Any] = {
            'n_atoms': n_atoms,
            'numbers': np.concatenate([atoms.numbers for atoms in frames]),
            'positions': np.concatenate([atoms.positions for atoms in frames]),
            'cell': np.array([atoms.cell.array for atoms in frames]),
            'pbc': np.array([atoms.pbc for atoms in frames]),
        }
        data['reference_cell'] = data['cell']
        data['initial_moments'] = np.concatenate([atoms.get_initial_magnetic_moments() for atoms in frames])
        if labels:
            calculators = [atoms.calc for atoms in frames]
            data['energy'] = [calc.results['energy'] for calc in calculators]
            data['forces'] = np.concatenate([calc.results['forces'] for calc in calculators])
            data['stress'] = [calc.results.get('stress', np.full(6, np.nan)) for calc in calculators]
            data['status'] = ['labelled'] * len(frames)
        for name, value in columns.items():
            _, row, _ = _COLUMNS[name]
            single = isinstance(value, str) or np.ndim(value) == len(row)
            rows = int(n_atoms.sum()) if name in _PER_ATOM else len(frames)
            data[name] = [value] * rows if single else value
        data = _with_defaults(data)
        if 'frame_id' not in data:
            ends = np.cumsum(n_atoms)
            data['frame_id'] = [
                frame_id_of(
                    data['numbers'][end - n : end],
                    data['positions'][end - n : end],
                    data['cell'][i],
                    data['pbc'][i],
                    int(data['charge'][i]),
                    int(data['multiplicity'][i]),
                    data['reference_cell'][i],
                    data['initial_moments'][end - n : end],
                )
                for i, (n, end) in enumerate(zip(n_atoms, ends, strict=True))
            ]
        return cls(**data)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Self:
        """Return the container of :meth:`columns`. A column that an older version did not write takes its default."""
        return cls(**_with_defaults(columns))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return all frames of ``parts``, in order."""
        if not parts:
            return cls.empty()
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})

    def take(self, indices: Sequence[int] | NDArray[Any]) -> Self:
        """Return the frames at ``indices`` (integers, or a boolean mask), in that order."""
        index = np.asarray(indices)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        offsets = self.offsets
        pieces = [np.arange(offsets[i], offsets[i + 1]) for i in index]
        rows = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
        return type(self)(
            **{name: column[rows if name in _PER_ATOM else index] for name, column in self.columns().items()}
        )

    def with_columns(self, **columns: Any) -> Self:
        """Return a copy with some columns replaced. Identities stay as they are."""
        return replace(self, **columns)

    # -- views ---------------------------------------------------------------------------------------------------

    def group_by_composition(self) -> dict[str, NDArray[np.int64]]:
        """Return frame indices by chemical formula (Hill notation), formulas in alphabetical order."""
        groups: dict[str, list[int]] = {}
        offsets = self.offsets
        for i in range(len(self)):
            formula = Atoms(numbers=self.numbers[offsets[i] : offsets[i + 1]]).get_chemical_formula(mode='hill')
            groups.setdefault(formula, []).append(i)
        return {formula: np.array(groups[formula], dtype=np.int64) for formula in sorted(groups)}

    def atoms(self, index: int) -> Atoms:
        """Return one frame as :class:`ase.Atoms`, its label (if accepted) as a single-point calculator."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        frame = Atoms(
            numbers=self.numbers[start:stop],
            positions=self.positions[start:stop],
            cell=self.cell[index],
            pbc=self.pbc[index],
            info={'frame_id': str(self.frame_id[index])},
        )
        start_moments = self.initial_moments[start:stop]
        if start_moments.any():
            frame.set_initial_magnetic_moments(start_moments)
        if self.status[index] == 'labelled':
            results: dict[str, Any] = {'energy': float(self.energy[index]), 'forces': self.forces[start:stop].copy()}
            if np.isfinite(self.stress[index]).all():
                results['stress'] = self.stress[index].copy()
            if np.isfinite(self.magnetization[index]):
                results['magmom'] = float(self.magnetization[index])
            frame.calc = SinglePointCalculator(frame, **results)
        return frame

    def to_atoms(self) -> list[Atoms]:
        """Return all frames as :class:`ase.Atoms`."""
        return [self.atoms(index) for index in range(len(self))]

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write all columns to an ``.npz`` file. Equal content gives equal bytes."""
        columns: Mapping[str, Any] = self.columns()
        with Path(path).open('wb') as handle:
            np.savez(handle, **columns)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            return cls.from_columns(dict(archive))

    def write_extxyz(self, path: str | Path) -> None:
        """Write extended XYZ with the keys MACE reads: ``REF_energy``, ``REF_forces``, ``REF_stress``."""
        frames = []
        for index, atoms in enumerate(self.to_atoms()):
            calculator, atoms.calc = atoms.calc, None
            if calculator is not None:
                atoms.info['REF_energy'] = calculator.results['energy']
                atoms.arrays['REF_forces'] = calculator.results['forces']
                if 'stress' in calculator.results:
                    atoms.info['REF_stress'] = calculator.results['stress']
            atoms.info.update(role=str(self.role[index]), origin=str(self.origin[index]) or 'unknown')
            frames.append(atoms)
        ase_write(str(path), frames, format='extxyz')
