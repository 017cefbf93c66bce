"""From frames to label chunks and back: what is still to be labelled, in which pieces, and the labels put together."""

from __future__ import annotations

from typing import Final

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.dataset import common_level
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_checks import LabelChecks, check_labels
from aiida_mlipal.science.settings import from_dict

__all__ = (
    'CHUNK_SIZE', 'assemble_labels', 'chunk_key', 'frame_index', 'frame_key', 'missing_frames', 'no_labels',
    'split_into_chunks',
)  # fmt: skip

#: Frames per label chunk: a calcfunction with N inputs costs N², and a chunk's ids stay queryable attributes.
CHUNK_SIZE: Final = 64


def frame_key(index: int) -> str:
    """Return the link label of frame ``index`` of a chunk."""
    return f'frame_{index:05d}'


def frame_index(key: str) -> int:
    """Return the index of the frame that :func:`frame_key` has named."""
    return int(key.removeprefix('frame_'))


def chunk_key(index: int) -> str:
    """Return the link label of chunk ``index``."""
    return f'chunk_{index:03d}'


@calcfunction
def missing_frames(configurations: ConfigurationsData, **known: ConfigurationsData) -> ConfigurationsData:
    """Return the frames without an accepted label in ``known``, each once."""
    labelled = {
        frame for node in known.values() for frame in node.configurations.frame_id[node.configurations.is_labelled]
    }
    frames = configurations.configurations
    rows = []
    for index, frame in enumerate(frames.frame_id.tolist()):
        if frame not in labelled:
            labelled.add(frame)
            rows.append(index)
    return ConfigurationsData(frames.take(rows))


@calcfunction
def split_into_chunks(configurations: ConfigurationsData) -> dict[str, ConfigurationsData]:
    """Cut many frames into chunks of at most :data:`CHUNK_SIZE`."""
    frames = configurations.configurations
    return {
        chunk_key(number): ConfigurationsData(frames.take(np.arange(start, min(start + CHUNK_SIZE, len(frames)))))
        for number, start in enumerate(range(0, len(frames), CHUNK_SIZE))
    }


_PER_FRAME: Final = ('energy', 'stress', 'magnetization', 'scf_force_error', 'status', 'reason')


def with_labels(frames: Configurations, source: Configurations, rows: dict[str, int]) -> Configurations:
    """Return ``frames`` with the labels, status and reason of the rows of ``source`` given by identity."""
    columns = {
        name: getattr(frames, name).astype(object if name in ('status', 'reason') else float) for name in _PER_FRAME
    }
    forces = frames.forces.copy()
    own, other = frames.offsets, source.offsets
    for index, frame in enumerate(frames.frame_id.tolist()):
        if frame in rows:
            row = rows[frame]
            for name, column in columns.items():
                column[index] = getattr(source, name)[row]
            forces[own[index] : own[index + 1]] = source.forces[other[row] : other[row + 1]]
    return frames.with_columns(forces=forces, **columns)


@calcfunction
def assemble_labels(
    configurations: ConfigurationsData,
    checks: orm.Dict,
    expected: EvaluationData | None = None,
    **sources: ConfigurationsData,
) -> ConfigurationsData:
    """Return ``configurations`` with the labels found in ``sources`` (label chunks, new or of earlier campaigns).

    Computed labels win over failed ones; then all are held against ``checks``. A frame that no source holds is a
    rejected row that says so.

    :param checks: :class:`LabelChecks`.
    :param expected: what a committee says of these frames, for the check of the energy.
    :raises ValueError: if two sources differ in their level of theory.
    """
    frames = configurations.configurations
    level = common_level(sources)
    nodes = [sources[key] for key in sorted(sources)]
    merged = Configurations.concatenate([node.configurations for node in nodes])
    rows: dict[str, int] = {}
    for row, (frame, status) in enumerate(zip(merged.frame_id.tolist(), merged.status.tolist(), strict=True)):
        if frame not in rows or (status == 'labelled' and merged.status[rows[frame]] != 'labelled'):
            rows[frame] = row
    lost = frames.with_columns(
        status=np.full(len(frames), 'rejected'), reason=np.full(len(frames), 'no calculation returned a label')
    )
    energies = {}
    if expected is not None:
        energies = dict(zip(expected.evaluation.frame_id.tolist(), expected.evaluation.energy.tolist(), strict=True))
    judged = check_labels(with_labels(lost, merged, rows), from_dict(LabelChecks, checks.get_dict()), energies)
    return ConfigurationsData(judged, level_of_theory=level)


@calcfunction
def no_labels(configurations: ConfigurationsData, level_of_theory: orm.Dict) -> ConfigurationsData:
    """Return ``configurations`` as they are, with the level of theory they would have had: for an empty set."""
    return ConfigurationsData(configurations.configurations, level_of_theory=level_of_theory.get_dict())
