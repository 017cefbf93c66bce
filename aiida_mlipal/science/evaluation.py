"""What one model or committee says of many frames, row by row, keyed by ``frame_id``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ('Evaluation',)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Predictions of a committee of K members (K = 1 for a single model) for F frames with A atoms in all.

    ``forces_std`` is the committee's spread per Cartesian component, sqrt(sum over x, y, z of the sample variance / 3),
    so that it compares with a force RMSE per component. It is NaN for a single model, as is ``energy_std``.
    ``descriptors`` are per frame: the mean over atoms of the first member's invariant node features.
    """

    frame_id: NDArray[np.str_]  #: (F,)
    n_atoms: NDArray[np.int64]  #: (F,)
    energy: NDArray[np.float64]  #: (F,) committee mean, eV
    forces: NDArray[np.float64]  #: (A, 3) committee mean, eV/Å
    stress: NDArray[np.float64]  #: (F, 6) committee mean, eV/Å³, Voigt, ASE's sign; NaN if not periodic
    energy_std: NDArray[np.float64]  #: (F,) eV
    forces_std: NDArray[np.float64]  #: (A,) eV/Å per component
    member_energy: NDArray[np.float64]  #: (F, K) eV
    descriptors: NDArray[np.float64]  #: (F, D)

    def __post_init__(self) -> None:
        n_frames, n_total = len(self.frame_id), int(np.sum(self.n_atoms))
        expected = {'forces': (n_total, 3), 'forces_std': (n_total,), 'stress': (n_frames, 6)}
        for field in fields(self):
            array = np.array(getattr(self, field.name), order='C')
            if field.name == 'frame_id':
                array = np.array([str(value) for value in array], dtype=str)
            else:
                array = array.astype('<i8' if field.name == 'n_atoms' else '<f8')
            shape = expected.get(field.name)
            if shape is not None:
                array = array.reshape(shape) if array.size == 0 else array
                if array.shape != shape:
                    raise ValueError(f'`{field.name}` must have shape {shape}, got {array.shape}.')
            elif len(array) != n_frames:
                raise ValueError(f'`{field.name}` must have {n_frames} rows, got {len(array)}.')
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)

    def __len__(self) -> int:
        return len(self.frame_id)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First atom row of each frame and the end, shape ``(F + 1,)``."""
        return np.concatenate(([0], np.cumsum(self.n_atoms))).astype(np.int64)

    @property
    def max_forces_std(self) -> NDArray[np.float64]:
        """Largest ``forces_std`` of each frame, eV/Å, shape ``(F,)``: the uncertainty that selection looks at."""
        if not len(self):
            return np.zeros(0)
        result: NDArray[np.float64] = np.maximum.reduceat(self.forces_std, self.offsets[:-1])
        return result

    def index_of(self, frame_ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
        """Return the row of each identity.

        :raises KeyError: if one is not here.
        """
        rows = {frame: index for index, frame in enumerate(self.frame_id.tolist())}
        try:
            return np.array([rows[str(frame)] for frame in frame_ids], dtype=np.int64)
        except KeyError as exception:
            raise KeyError(f'frame {exception} was not evaluated (there are {len(self)} others).') from None

    def take(self, indices: Sequence[int] | NDArray[Any]) -> Self:
        """Return the rows at ``indices`` (integers, or a boolean mask), in that order."""
        index = np.asarray(indices)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        offsets = self.offsets
        pieces = [np.arange(offsets[i], offsets[i + 1]) for i in index]
        rows = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
        per_atom = ('forces', 'forces_std')
        return type(self)(
            **{
                field.name: getattr(self, field.name)[rows if field.name in per_atom else index]
                for field in fields(self)
            }
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return all columns by name, in declaration order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, path: str | Path) -> None:
        """Write all columns to an ``.npz`` file. Equal content gives equal bytes."""
        columns: dict[str, Any] = self.columns()
        with Path(path).open('wb') as handle:
            np.savez(handle, **columns)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{field.name: archive[field.name] for field in fields(cls)})
