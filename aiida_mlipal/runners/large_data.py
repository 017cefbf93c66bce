"""Training frames in a database that MACE reads frame by frame, for sets whose graphs would not fit into the memory.

From extended XYZ MACE (0.3.16) builds the graphs of all frames before it begins, in each process that trains a member.
From a database it builds those of a batch when the batch is due, and again in the next epoch. Of its two formats the
one of ASE's databases in LMDB is written here: it takes half the time to read and a third of the space of MACE's HDF5
(8 atoms per frame), and MACE takes the frames of an HDF5 file for those of the main head, whichever head they are for.

Numbers are kept to the last bit. Extended XYZ has positions and forces with eight decimals.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aiida_mlipal.science.ase_frames import mace_frames
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_checks import neighbours_per_atom

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ('MAX_GRAPH_BYTES', 'SUFFIX', 'DatabaseFrames', 'graph_bytes', 'load_frames', 'write_database')

#: Graphs that take more than this are not all kept in memory: a gibibyte for each member that is trained.
MAX_GRAPH_BYTES: float = 2**30
#: By which MACE knows the format.
SUFFIX: Final = '.aselmdb'

#: What a pair of neighbours (indices and vectors of MACE 0.3.16's graph) and what a frame takes in memory, roughly.
_BYTES_PER_PAIR, _BYTES_PER_FRAME = 40, 30_000
#: Frames written at a time.
_CHUNK: Final = 500


def graph_bytes(frames: Configurations, *, r_max: float) -> float:
    """Return the memory (bytes) that the graphs of all ``frames`` take in a training.

    :param r_max: cutoff, Å.
    """
    pairs = float(np.sum(neighbours_per_atom(frames, r_max=r_max) * frames.n_atoms))
    return _BYTES_PER_PAIR * pairs + _BYTES_PER_FRAME * len(frames)


def write_database(frames: Configurations, path: Path) -> None:
    """Write ``frames`` as MACE reads them, a few at a time.

    MACE's own writer (``mace.tools.fairchem_dataset``) maps two tebibytes of addresses, which a job with a limit on
    them cannot have, and looks through a list of all frames for each one.
    """
    import lmdb

    # Text of 25 characters per number before compression, and at least a page of 4096 bytes each.
    size = 2**20 + 500 * len(frames.numbers) + 3 * 4096 * len(frames)
    path.unlink(missing_ok=True)
    with lmdb.open(str(path), map_size=size, subdir=False, meminit=False, lock=False) as database:
        for start in range(0, len(frames), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(frames)))
            with database.begin(write=True) as transaction:
                for row, atoms in zip(rows.tolist(), mace_frames(frames.take(rows)), strict=True):
                    transaction.put(str(row + 1).encode(), _packed(_record(atoms)))
        with database.begin(write=True) as transaction:
            transaction.put(b'nextid', _packed(len(frames) + 1))


def _record(atoms: Atoms) -> dict[str, Any]:
    """Return a frame as a row of an ASE database, its labels where MACE looks for them."""
    extra = {name: array for name, array in atoms.arrays.items() if name not in ('numbers', 'positions')}
    return {
        'numbers': atoms.numbers,
        'positions': atoms.positions,
        'cell': atoms.cell.array,
        'pbc': atoms.pbc,
        'data': {'__arrays__': extra, '__info__': atoms.info},
    }


def _packed(value: Any) -> bytes:
    import orjson

    return zlib.compress(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), level=1)


class DatabaseFrames(Sequence['Atoms']):
    """The frames of a database, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Open the database at ``path``."""
        from mace.tools.fairchem_dataset import AseDBDataset

        self._database = AseDBDataset(config={'src': [str(path)]})

    def __len__(self) -> int:
        return len(self._database)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f'frame {index} of {len(self)}')
        return self._database.get_atoms(index % len(self))

    def __iter__(self) -> Iterator[Atoms]:
        return (self[row] for row in range(len(self)))


def load_frames(path: Path) -> Sequence[Atoms]:
    """Return the labelled frames of a file that MACE is trained with; those of a database are not kept in memory."""
    from ase.io import read

    if path.suffix == SUFFIX:
        return DatabaseFrames(path)
    frames: list[Atoms] = read(path, ':')
    return frames
