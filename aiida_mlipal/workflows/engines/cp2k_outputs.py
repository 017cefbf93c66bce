"""What CP2K said: energies, forces, stress and magnetization from its output file, and why a calculation failed.

aiida-cp2k reads neither forces nor stress of a single point (its issue 144), so both come from ``retrieved``.
"""

from __future__ import annotations

import re
from typing import Final

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.cp2k_output import read_single_point
from aiida_mlipal.workflows.engines.outputs import (
    JOB_CODES,
    NODE_SIGNS,
    Label,
    find_sign,
    job_failure_reason,
    label_frames,
    retrieved_text,
)

__all__ = ('collect_cp2k_labels', 'cp2k_failure_reason', 'output_text')

#: What CP2K, the shell or the scheduler print, and what it means. The first that is found counts.
_SIGNS: Final = (
    *NODE_SIGNS,
    (r'SCF run NOT converged', 'the SCF did not converge'),
    (r'exceeded requested execution time|DUE TO TIME LIMIT', 'the wall time ran out'),
)
#: Lines of the box in which CP2K says why it stops; the picture of a man with an axe stands beside the text.
_ABORT: Final = re.compile(r'\[ABORT\].*\n((?:.*\n){1,8}?)\s*\*{20,}')
_PICTURE: Final = re.compile(r'^\s*\*\s*(?:\\___/|\||O/\||/\| \||/ \\)?\s*(.*?)\s*\*\s*$')


def output_text(retrieved: orm.Data, *names: str) -> str:
    """Return the output file of CP2K, and the other files ``names``, of a retrieved folder."""
    if retrieved.creator is None:
        return ''
    output = retrieved.creator.base.attributes.get('output_filename', 'aiida.out')
    return retrieved_text(retrieved, output, *names)


def cp2k_failure_reason(output: orm.Data) -> str:
    """Return why the calculation that left ``output`` gave no label: short, physical, equal for equal failures."""
    text = output_text(output, '_scheduler-stderr.txt')
    sign = find_sign(_SIGNS, text)
    if sign is not None:
        return sign
    abort = _ABORT.search(text)
    if abort is not None:
        lines = [match[1] for line in abort[1].splitlines() if (match := _PICTURE.match(line)) and match[1]]
        message = ' '.join(line for line in lines if not re.fullmatch(r'\S+\.F:\d+', line))
        return f'CP2K stopped: {message}'
    interrupted = text and 'PROGRAM STOPPED IN' not in text
    known = output.creator is not None and output.creator.exit_status in JOB_CODES
    if interrupted and not known:
        return 'CP2K stopped in the middle of its output: it was killed, or the disk is full'
    return job_failure_reason(output)


@calcfunction
def collect_cp2k_labels(
    frames: ConfigurationsData, level_of_theory: orm.Dict, **results: orm.Data
) -> ConfigurationsData:
    """Return ``frames`` with the labels of their CP2K calculations.

    ``results`` holds by frame what a calculation retrieved. The energy is CP2K's total, which with smearing is the free
    energy that belongs to the forces. A frame that is not periodic in three directions has no stress.
    """
    n_atoms = frames.configurations.n_atoms
    return label_frames(frames, level_of_theory, results, lambda index, output: _read(output, int(n_atoms[index])))


def _read(output: orm.Data, n_atoms: int) -> Label | str:
    if output.creator is None or output.creator.exit_status != 0:
        return cp2k_failure_reason(output)
    said = read_single_point(output_text(output))
    if not said.converged:  # where it was read by another parser than ours
        return 'the SCF did not converge'
    if said.energy is None:
        return 'CP2K printed no energy'
    if said.forces is None or len(said.forces) != n_atoms:
        return f'CP2K printed no forces on {n_atoms} atoms'
    magnetization = float('nan') if said.magnetization is None else said.magnetization
    return Label(said.energy, said.forces, said.stress, magnetization)
