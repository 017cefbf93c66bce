"""What CP2K said: energies, forces, stress and magnetization from its output file, and why a calculation failed.

aiida-cp2k reads neither forces nor stress of a single point (its issue 144), so both come from ``retrieved``.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.cp2k_output import read_single_point
from aiida_mlipal.workflows.engines.base import failure_reason

__all__ = ('collect_cp2k_labels', 'cp2k_failure_reason', 'output_text')

#: What CP2K, the shell or the scheduler print, and what it means. The first that is found counts.
_SIGNS: Final = (
    (r'No space left on device', 'no space was left on the device'),
    (r'[Dd]isk quota exceeded', 'the disk quota was used up'),
    (r'oom-kill|[Oo]ut of memory', 'the job ran out of memory'),
    (r'SCF run NOT converged', 'the SCF did not converge'),
    (r'exceeded requested execution time|DUE TO TIME LIMIT', 'the wall time ran out'),
)
#: Lines of the box in which CP2K says why it stops; the picture of a man with an axe stands beside the text.
_ABORT: Final = re.compile(r'\[ABORT\].*\n((?:.*\n){1,8}?)\s*\*{20,}')
_PICTURE: Final = re.compile(r'^\s*\*\s*(?:\\___/|\||O/\||/\| \||/ \\)?\s*(.*?)\s*\*\s*$')
_CODES: Final = {110: 'the job ran out of memory', 120: 'the wall time ran out', 140: 'the node failed'}


def output_text(retrieved: orm.Data, *names: str) -> str:
    """Return the output file of CP2K, and the other files ``names``, of a retrieved folder."""
    if not isinstance(retrieved, orm.FolderData) or retrieved.creator is None:
        return ''
    output = retrieved.creator.base.attributes.get('output_filename', 'aiida.out')
    present = retrieved.base.repository.list_object_names()
    contents = [
        retrieved.base.repository.get_object_content(name, 'rb') for name in (output, *names) if name in present
    ]
    return '\n'.join(bytes(content).decode(errors='replace') for content in contents)


def cp2k_failure_reason(output: orm.Data) -> str:
    """Return why the calculation that left ``output`` gave no label: short, physical, equal for equal failures."""
    creator = output.creator
    text = output_text(output, '_scheduler-stderr.txt')
    for pattern, reason in _SIGNS:
        if re.search(pattern, text):
            return reason
    abort = _ABORT.search(text)
    if abort is not None:
        lines = [match[1] for line in abort[1].splitlines() if (match := _PICTURE.match(line)) and match[1]]
        message = ' '.join(line for line in lines if not re.fullmatch(r'\S+\.F:\d+', line))
        return f'CP2K stopped: {message}'
    if creator is not None and creator.exit_status in _CODES:
        return _CODES[creator.exit_status]
    if text and 'PROGRAM STOPPED IN' not in text:
        return 'CP2K stopped in the middle of its output: it was killed, or the disk is full'
    return failure_reason(output)


@calcfunction
def collect_cp2k_labels(
    frames: ConfigurationsData, level_of_theory: orm.Dict, **results: orm.Data
) -> ConfigurationsData:
    """Return ``frames`` with the labels of their CP2K calculations.

    ``results`` holds by frame what a calculation retrieved. The energy is CP2K's total, which with smearing is the free
    energy that belongs to the forces. A frame that is not periodic in three directions has no stress.
    """
    configurations = frames.configurations
    n_frames = len(configurations)
    energy, magnetization = np.full(n_frames, np.nan), np.full(n_frames, np.nan)
    stress, forces = np.full((n_frames, 6), np.nan), np.full((int(configurations.n_atoms.sum()), 3), np.nan)
    status, reason = ['rejected'] * n_frames, ['no calculation returned a label'] * n_frames
    offsets = configurations.offsets
    for index in range(n_frames):
        output = results.get(frame_key(index))
        if output is None:
            continue
        if output.creator is None or output.creator.exit_status != 0:
            reason[index] = cp2k_failure_reason(output)
            continue
        said = read_single_point(output_text(output))
        if not said.converged:  # where it was read by another parser than ours
            reason[index] = 'the SCF did not converge'
            continue
        n_atoms = int(configurations.n_atoms[index])
        if said.energy is None or said.forces is None or len(said.forces) != n_atoms:
            absent = 'energy' if said.energy is None else f'forces on {n_atoms} atoms'
            reason[index] = f'CP2K printed no {absent}'
            continue
        energy[index] = said.energy
        forces[offsets[index] : offsets[index + 1]] = said.forces
        if said.stress is not None:
            stress[index] = said.stress
        if said.magnetization is not None:
            magnetization[index] = said.magnetization
        status[index], reason[index] = 'labelled', ''
    labelled = configurations.with_columns(
        energy=energy, forces=forces, stress=stress, magnetization=magnetization, status=status, reason=reason
    )
    return ConfigurationsData(labelled, level_of_theory=level_of_theory.get_dict())
