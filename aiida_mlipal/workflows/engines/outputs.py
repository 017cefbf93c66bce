"""From the outputs of calculations to a label chunk: what code by code differs is only how one output is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from aiida import orm
from numpy.typing import NDArray

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.workflows.engines.base import failure_reason

__all__ = (
    'DISK_SIGNS', 'JOB_CODES', 'NODE_FAILURE', 'NODE_SIGNS', 'OUT_OF_MEMORY', 'OUT_OF_TIME', 'Label', 'find_sign',
    'job_failure_reason', 'label_frames', 'retrieved_text',
)  # fmt: skip

_Found = TypeVar('_Found')

#: Exit codes that AiiDA gives a job from what the scheduler says.
OUT_OF_MEMORY: Final = 110
OUT_OF_TIME: Final = 120
NODE_FAILURE: Final = 140

#: And what they mean.
JOB_CODES: Final = {
    OUT_OF_MEMORY: 'the job ran out of memory',
    OUT_OF_TIME: 'the wall time ran out',
    NODE_FAILURE: 'the node failed',
}
#: What the shell, the scheduler or the system print, and what it means.
DISK_SIGNS: Final = (
    (r'No space left on device', 'no space was left on the device'),
    (r'[Dd]isk quota exceeded', 'the disk quota was used up'),
)
NODE_SIGNS: Final = (*DISK_SIGNS, (r'oom-kill|[Oo]ut of memory', 'the job ran out of memory'))


def retrieved_text(retrieved: orm.Data, *names: str) -> str:
    """Return the files ``names`` of a retrieved folder, one after the other; what is missing is left out."""
    if not isinstance(retrieved, orm.FolderData):
        return ''
    present = retrieved.base.repository.list_object_names()
    contents = [retrieved.base.repository.get_object_content(name, 'rb') for name in names if name in present]
    return '\n'.join(bytes(content).decode(errors='replace') for content in contents)


def find_sign(signs: tuple[tuple[str, str], ...], text: str) -> str | None:
    """Return the meaning of the first of ``signs`` (pattern, meaning) in ``text``; ``{}`` in it takes a group."""
    for pattern, meaning in signs:
        match = re.search(pattern, text)
        if match is not None:
            return meaning.format(*match.groups())
    return None


def job_failure_reason(output: orm.Data) -> str:
    """Return why the calculation that left ``output`` failed, as far as AiiDA and the scheduler know."""
    status = output.creator.exit_status if output.creator is not None else None
    return JOB_CODES[status] if status in JOB_CODES else failure_reason(output)


@dataclass(frozen=True)
class Label:
    """What a code computed for one frame; not a number where it did not."""

    energy: float  #: eV, whose derivative the forces are
    forces: NDArray[np.float64]  #: eV/Å, shape ``(n_atoms, 3)``
    stress: NDArray[np.float64] | None = None  #: eV/Å³, Voigt order, positive under tension
    magnetization: float = float('nan')  #: µB per cell
    scf_force_error: float = float('nan')  #: eV/Å, by which the forces may be off as the SCF is not exact


def label_frames(
    frames: ConfigurationsData,
    level_of_theory: orm.Dict,
    results: Mapping[str, _Found],
    read: Callable[[int, _Found], Label | str],
) -> ConfigurationsData:
    """Return ``frames`` with their labels, for the calcfunction of ``collect``; what has none says why.

    :param results: what the calculation of each frame left, by :func:`frame_key`.
    :param read: turns the index of a frame and what its calculation left into a label, or into the reason why not.
    """
    configurations = frames.configurations
    n_frames = len(configurations)
    columns = {name: np.full(n_frames, np.nan) for name in ('energy', 'magnetization', 'scf_force_error')}
    stress, forces = np.full((n_frames, 6), np.nan), np.full((int(configurations.n_atoms.sum()), 3), np.nan)
    status, reason = ['rejected'] * n_frames, ['no calculation returned a label'] * n_frames
    offsets = configurations.offsets
    for index in range(n_frames):
        if frame_key(index) not in results:
            continue
        label = read(index, results[frame_key(index)])
        if isinstance(label, str):
            reason[index] = label
            continue
        status[index], reason[index] = 'labelled', ''
        for name, column in columns.items():
            column[index] = getattr(label, name)
        forces[offsets[index] : offsets[index + 1]] = label.forces
        if label.stress is not None:
            stress[index] = label.stress
    labelled = configurations.with_columns(stress=stress, forces=forces, status=status, reason=reason, **columns)
    return ConfigurationsData(labelled, level_of_theory=level_of_theory.get_dict())
