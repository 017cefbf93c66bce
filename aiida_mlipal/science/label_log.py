"""Labels as they are computed, one line of JSON each: what a job that is killed leaves behind is not lost.

Two kinds of lines: ``{"started": 3}`` before frame 3 is computed, and after it
``{"frame": 3, "energy": ..., "forces": [...], "stress": [...], "reason": "", "wall_s": ...}``. Python writes the
shortest decimal that gives the same double, so nothing is rounded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiida_mlipal.science.configurations import Configurations

__all__ = ('INTERRUPTED', 'read_labels', 'unfinished', 'without_labels')

#: Reason of a frame that was being computed when the job ended.
INTERRUPTED: Final = 'the job ended while this frame was computed'


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file; the last one may have been cut."""
    lines = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def without_labels(frames: Configurations) -> Configurations:
    """Return ``frames`` with whatever labels they came with taken off."""
    n_frames = len(frames)
    return frames.with_columns(
        energy=np.full(n_frames, np.nan),
        forces=np.full((len(frames.numbers), 3), np.nan),
        stress=np.full((n_frames, 6), np.nan),
        magnetization=np.full(n_frames, np.nan),
        scf_force_error=np.full(n_frames, np.nan),
        status=['unlabelled'] * n_frames,
        reason=[''] * n_frames,
    )


def read_labels(
    path: Path, frames: Configurations, previous: Configurations | None = None
) -> tuple[Configurations, list[float | None]]:
    """Return ``frames`` with the labels that ``path`` holds, and the seconds that each took (``None``: not computed).

    A frame that was not reached is ``unlabelled``, with :data:`INTERRUPTED` as its reason if it was begun.

    :param previous: what an earlier job left of the same frames; its labels are kept.
    """
    start = previous or without_labels(frames)
    energy, forces, stress = np.array(start.energy), np.array(start.forces), np.array(start.stress)
    status, reason = start.status.tolist(), start.reason.tolist()
    seconds: list[float | None] = [None] * len(frames)
    offsets = frames.offsets
    for line in _lines(path):
        if 'started' in line:
            reason[line['started']] = INTERRUPTED
            continue
        index = line['frame']
        reason[index] = line['reason']
        status[index] = 'rejected' if line['reason'] else 'labelled'
        seconds[index] = line['wall_s']
        if not line['reason']:
            energy[index], stress[index] = line['energy'], line['stress']
            forces[offsets[index] : offsets[index + 1]] = line['forces']
    labels = start.with_columns(energy=energy, forces=forces, stress=stress, status=status, reason=reason)
    return labels, seconds


def unfinished(frames: Configurations) -> list[int]:
    """Return the rows without a label or a failure, those at which a job died last: they must not take others along."""
    rows = np.flatnonzero(frames.status == 'unlabelled').tolist()
    return sorted(rows, key=lambda row: frames.reason[row] == INTERRUPTED)
