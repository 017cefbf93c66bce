"""What a plan has done so far, in a file: a job that was killed goes on from there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.trajectory import Frame, Replica, Trajectory
from aiida_mlipal.science.plain import to_plain

__all__ = ('FOLDER', 'Keeper', 'pack', 'unpack')

#: Folder of a job with a file for each plan.
FOLDER: Final = 'exploration'
#: A file is written when this many times the seconds of the last writing have passed: at most 2 % of the time.
_PAUSE: Final = 50


class Keeper:
    """The file of one plan; without a path nothing is kept. The file holds arrays, by name."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._written, self._cost = -np.inf, 0.0
        self.notes: dict[str, Any] = {}  #: what a plan found out on its way, for the statistics of the job

    @property
    def is_due(self) -> bool:
        """Whether it is time to write again."""
        return self._path is not None and time.monotonic() - self._written >= _PAUSE * self._cost

    def finished(self) -> list[Trajectory] | None:
        """Return the trajectories of a plan that has come to its end, else None."""
        arrays = self.load()
        if arrays is None or 'notes' not in arrays:
            return None
        self.notes = json.loads(str(arrays['notes']))
        return unpack(arrays)

    def finish(self, trajectories: Sequence[Trajectory]) -> None:
        """Save the trajectories, and the notes, of a plan that has come to its end."""
        self.save({**pack(trajectories), 'notes': np.array(json.dumps(to_plain(self.notes)))})

    def load(self) -> dict[str, NDArray[Any]] | None:
        """Return what was saved, None if nothing was."""
        if self._path is None or not self._path.exists():
            return None
        with np.load(self._path, allow_pickle=False) as file:
            return dict(file)

    def save(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Write in one go: whoever kills this process leaves the old file or the new one."""
        if self._path is None:
            return
        begin = time.monotonic()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix('.partial')
        with partial.open('wb') as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(partial, self._path)
        self._written = time.monotonic()
        self._cost = self._written - begin


def _rows(items: Sequence[Any], shape: tuple[int, ...] = (3,)) -> NDArray[np.float64]:
    return np.concatenate(items) if items else np.zeros((0, *shape))


def pack(trajectories: Sequence[Trajectory]) -> dict[str, NDArray[Any]]:
    """Return arrays that hold all of ``trajectories``."""
    replicas = [trajectory.replica for trajectory in trajectories]
    frames = [[*item.frames, *([] if item.unsafe is None else [item.unsafe])] for item in trajectories]
    flat = [frame for some in frames for frame in some]
    return {
        'index': np.array([replica.index for replica in replicas], dtype=np.int64),
        'start': np.array([replica.start for replica in replicas], dtype=np.int64),
        'temperature': np.array([replica.temperature for replica in replicas], dtype=np.float64),
        'pressure': np.array([replica.pressure for replica in replicas], dtype=np.float64),
        'n_atoms': np.array([len(replica.numbers) for replica in replicas], dtype=np.int64),
        'numbers': np.concatenate([np.zeros(0, dtype=np.int64), *(replica.numbers for replica in replicas)]),
        'positions': _rows([replica.positions for replica in replicas]),
        'cell': np.array([replica.cell for replica in replicas], dtype=np.float64).reshape(-1, 3, 3),
        'pbc': np.array([replica.pbc for replica in replicas], dtype=np.bool_).reshape(-1, 3),
        'reference_cell': np.array(
            [np.full((3, 3), np.nan) if one.reference_cell is None else one.reference_cell for one in replicas]
        ).reshape(-1, 3, 3),
        'found': np.array([json.dumps(item.found) for item in trajectories], dtype=np.str_),
        'n_steps': np.array([item.n_steps for item in trajectories], dtype=np.int64),
        'reason': np.array([item.reason for item in trajectories], dtype=np.str_),
        'n_frames': np.array([len(some) for some in frames], dtype=np.int64),
        'is_unsafe': np.array([item.unsafe is not None for item in trajectories], dtype=np.bool_),
        'frame_step': np.array([frame.step for frame in flat], dtype=np.int64),
        'frame_positions': _rows([frame.positions for frame in flat]),
        'frame_cell': np.array([frame.cell for frame in flat], dtype=np.float64).reshape(-1, 3, 3),
        'frame_temperature': np.array([frame.temperature for frame in flat], dtype=np.float64),
        'frame_mark': np.array([frame.mark for frame in flat], dtype=np.str_),
    }


def unpack(arrays: dict[str, NDArray[Any]]) -> list[Trajectory]:
    """Return the trajectories that :func:`pack` was given."""
    ends = np.cumsum(arrays['n_atoms'])
    frame_ends = np.cumsum(arrays['n_frames'])
    atoms_of_frames = np.cumsum(np.repeat(arrays['n_atoms'], arrays['n_frames']))
    trajectories = []
    for row, (end, last) in enumerate(zip(ends.tolist(), frame_ends.tolist(), strict=True)):
        n_atoms, n_frames = int(arrays['n_atoms'][row]), int(arrays['n_frames'][row])
        atoms = slice(end - n_atoms, end)
        replica = Replica(
            index=int(arrays['index'][row]),
            start=int(arrays['start'][row]),
            temperature=float(arrays['temperature'][row]),
            pressure=float(arrays['pressure'][row]),
            numbers=arrays['numbers'][atoms],
            positions=arrays['positions'][atoms],
            cell=arrays['cell'][row],
            pbc=arrays['pbc'][row],
            reference_cell=None if np.isnan(arrays['reference_cell'][row]).all() else arrays['reference_cell'][row],
        )
        frames = [
            Frame(
                step=int(arrays['frame_step'][i]),
                positions=arrays['frame_positions'][int(atoms_of_frames[i]) - n_atoms : int(atoms_of_frames[i])],
                cell=arrays['frame_cell'][i],
                temperature=float(arrays['frame_temperature'][i]),
                mark=str(arrays['frame_mark'][i]),
            )
            for i in range(last - n_frames, last)
        ]
        unsafe = frames.pop() if arrays['is_unsafe'][row] else None
        trajectories.append(
            Trajectory(
                replica=replica,
                frames=frames,
                n_steps=int(arrays['n_steps'][row]),
                reason=str(arrays['reason'][row]),
                unsafe=unsafe,
                found=json.loads(str(arrays['found'][row])),
            )
        )
    return trajectories
