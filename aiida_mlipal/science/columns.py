"""Ragged columns: what everything that is stored frame by frame has in common.

Per-frame columns have ``n_frames`` rows, per-atom columns ``n_total_atoms`` rows in frame order. A subclass of
:class:`Columns` states its columns as dataclass fields with :func:`per_frame` and :func:`per_atom`, and its meaning.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ('Column', 'Columns', 'canonical', 'column_names', 'pack', 'per_atom', 'per_frame', 'unpack')


@dataclass(frozen=True)
class Column:
    """What one column holds."""

    dtype: str  #: of numpy, or ``str`` for text
    row: tuple[int | None, ...]  #: shape of one row; ``None`` is any size
    is_per_atom: bool  #: one row per atom instead of one per frame
    default: Any  #: of each row, where the column is not given; ``None`` means that it must be given

    def rows(self, n_rows: int) -> tuple[int, ...]:
        """Return the shape of ``n_rows`` rows, a size that is not fixed as 0."""
        return (n_rows, *(size or 0 for size in self.row))


def per_frame(dtype: str, *row: int | None, default: Any = None) -> dict[str, Column]:
    """Return the metadata of a field that is a column with one row of shape ``row`` per frame."""
    return {'column': Column(dtype, row, False, default)}


def per_atom(dtype: str, *row: int | None, default: Any = None) -> dict[str, Column]:
    """Return the metadata of a field that is a column with one row of shape ``row`` per atom."""
    return {'column': Column(dtype, row, True, default)}


def canonical(values: Any, dtype: str) -> NDArray[Any]:
    """Return a read-only copy of ``values`` such that equal content has equal bytes.

    It is in C order, has one bit pattern for NaN (there are many), and text has the narrowest dtype that holds it.
    """
    if dtype != 'str':
        array = np.array(values, dtype=dtype, order='C')
        if array.dtype.kind == 'f':
            array[np.isnan(array)] = np.nan
    elif isinstance(values, np.ndarray) and values.dtype.kind == 'U':
        array = values.astype(f'<U{np.char.str_len(values).max(initial=1)}', order='C')
    else:
        array = np.array([str(value) for value in values], dtype=str)
    array.setflags(write=False)
    return array


def pack(columns: Mapping[str, Any]) -> bytes:
    """Return the content of an uncompressed ``.npz`` file. It holds no time of writing: equal columns, equal bytes."""
    stream = io.BytesIO()
    np.savez(stream, **columns)
    return stream.getvalue()


def unpack(content: bytes, names: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return the columns in what :func:`pack` returned, all or some.

    :raises KeyError: for a name that is not there.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in (archive.files if names is None else names)}


def column_names(content: bytes) -> list[str]:
    """Return the names of the columns in what :func:`pack` returned."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return list(archive.files)


@dataclass(frozen=True, eq=False, kw_only=True)
class Columns:
    """Immutable columns of many frames, keyed by ``frame_id``. Two are equal if all columns are, NaN included."""

    #: What is said of a frame that is not here.
    ABSENT: ClassVar[str] = 'is not among these {n_frames} frames'

    frame_id: NDArray[np.str_] = field(metadata=per_frame('str'))
    n_atoms: NDArray[np.int64] = field(metadata=per_frame('<i8'))

    def __post_init__(self) -> None:
        n_frames, n_total = len(self.frame_id), int(np.sum(self.n_atoms))
        for name, column in self.schema().items():
            array = canonical(getattr(self, name), column.dtype)
            if array.shape == (0,):
                array = array.reshape(column.rows(0))
            expected = (n_total if column.is_per_atom else n_frames, *column.row)
            if array.ndim != len(expected) or any(
                size not in (None, found) for size, found in zip(expected, array.shape, strict=True)
            ):
                wanted = str(expected).replace('None', 'any')
                raise ValueError(f'column `{name}` must have shape {wanted}, got {array.shape}.')
            object.__setattr__(self, name, array)

    # -- size and access -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.frame_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return all(
            left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()
            for left, right in zip(self.columns().values(), other.columns().values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def schema(cls) -> Mapping[str, Column]:
        """Return what each column holds, by name, in declaration order."""
        return {item.name: item.metadata['column'] for item in fields(cls)}

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return all columns by name, in declaration order."""
        return {name: getattr(self, name) for name in self.schema()}

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First atom row of each frame and the end, shape ``(n_frames + 1,)``."""
        offsets = np.concatenate(([0], np.cumsum(self.n_atoms))).astype(np.int64)
        offsets.setflags(write=False)
        return offsets

    @property
    def atom_frame(self) -> NDArray[np.int64]:
        """Frame index of each atom row, shape ``(n_total_atoms,)``."""
        return np.repeat(np.arange(len(self)), self.n_atoms)

    def index_of(self, frame_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the row of each identity.

        :raises KeyError: if one is not here.
        """
        rows = {frame: index for index, frame in enumerate(self.frame_id.tolist())}
        try:
            return np.array([rows[str(frame)] for frame in frame_ids], dtype=np.int64)
        except KeyError as exception:
            raise KeyError(f'frame {exception} {self.ABSENT.format(n_frames=len(self))}.') from None

    # -- construction --------------------------------------------------------------------------------------------

    @classmethod
    def empty(cls) -> Self:
        """Return a container without frames."""
        columns: dict[str, Any] = {name: [] for name in cls.schema()}
        return cls(**columns)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Self:
        """Return the container of ``columns``; one that is missing, as in an older file, takes its default."""
        rows = {False: len(columns['frame_id']), True: int(np.sum(columns['n_atoms']))}
        missing = {
            name: np.full(column.rows(rows[column.is_per_atom]), column.default)
            for name, column in cls.schema().items()
            if name not in columns and column.default is not None
        }
        return cls(**columns, **missing)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return all frames of ``parts``, in order."""
        parts = [part for part in parts if len(part)] or parts[:1]
        if not parts:
            return cls.empty()
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.schema()})

    def take(self, indices: Sequence[int] | NDArray[Any]) -> Self:
        """Return the frames at ``indices`` (integers, or a boolean mask), in that order."""
        index = np.asarray(indices)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        counts = self.n_atoms[index]
        # For each atom row: the first row of its frame, there minus here, and its place in the whole here.
        atoms = np.repeat(self.offsets[:-1][index] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return type(self)(
            **{
                name: getattr(self, name)[atoms if column.is_per_atom else index]
                for name, column in self.schema().items()
            }
        )

    def with_columns(self, **columns: Any) -> Self:
        """Return a copy with some columns replaced. Identities stay as they are."""
        return replace(self, **columns)

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write all columns to an ``.npz`` file. Equal content gives equal bytes."""
        Path(path).write_bytes(pack(self.columns()))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls.from_columns(unpack(Path(path).read_bytes()))
