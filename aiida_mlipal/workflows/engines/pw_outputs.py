"""What pw.x said: energies, forces, stress, magnetization, how exact they are, and why a calculation failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.pw_labels import PER_FRAME, unpack_labels
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.pw_output import scf_force_errors
from aiida_mlipal.science.units import GPA
from aiida_mlipal.workflows.attempts import SHARED
from aiida_mlipal.workflows.engines.outputs import (
    DISK_SIGNS,
    NODE_FAILURE,
    NODE_SIGNS,
    Label,
    find_sign,
    job_failure_reason,
    label_frames,
    retrieved_text,
)

__all__ = ('collect_pw_labels', 'disk_is_full', 'pw_failure_reason', 'was_interrupted')

#: eV per atom. Below it, a smearing that only helped an insulator to converge changes nothing.
_NEGLIGIBLE_SMEARING: Final = 1e-5
#: What pw.x, the shell or the scheduler print, and what it means. The first that is found counts.
_SIGNS: Final = (
    *NODE_SIGNS,
    (r'atoms #\s*(\d+) and #\s*(\d+) overlap', 'atoms {} and {} are on top of each other'),
    (r'convergence NOT achieved after\s+(\d+) iterations', 'the SCF did not converge in {} steps'),
    (r'Maximum CPU time exceeded', 'the wall time ran out'),
    (r'from (\w+)\s*: error #.*\n\s*(.+?)\s*\n', 'pw.x stopped in {}: {}'),
    (r'\bKilled\b', 'pw.x was killed'),
    (r'[Ss]egmentation fault', 'pw.x crashed: segmentation fault'),
)
#: Exit codes of ``PwCalculation``.
_NO_TIME: Final = (340, 400)
#: Output missing, unreadable or cut off.
_CUT_OFF: Final = (302, 303, 305, 310, 311, 312, 320, 321, 322)


def _messages(retrieved: orm.Data) -> str:
    """Return what a failed calculation printed, the most telling file first."""
    return retrieved_text(retrieved, 'CRASH', '_scheduler-stderr.txt', 'aiida.out')


def disk_is_full(retrieved: orm.Data) -> bool:
    """Return whether the calculation found no space to write to."""
    return find_sign(DISK_SIGNS, _messages(retrieved)) is not None


def was_interrupted(calculation: orm.CalcJobNode) -> bool:
    """Return whether something outside ended pw.x: its output is cut off, and it did not stop with an error itself."""
    if calculation.exit_status == NODE_FAILURE:
        return True
    retrieved = calculation.outputs.retrieved if 'retrieved' in calculation.outputs else None
    return (
        calculation.exit_status in _CUT_OFF
        and retrieved is not None
        and not retrieved_text(retrieved, 'CRASH')
        and not disk_is_full(retrieved)
    )


def pw_failure_reason(output: orm.Data) -> str:
    """Return why the calculation that left ``output`` gave no label: short, physical, equal for equal failures."""
    creator = output.creator
    if creator is None or creator.exit_status is None:
        return job_failure_reason(output)
    if creator.exit_status == 0:
        return 'the highest band stayed occupied: raise `nbnd`'
    sign = find_sign(_SIGNS, _messages(output))
    if sign is not None:
        return sign
    if creator.exit_status in _NO_TIME:
        return 'the wall time ran out'
    if creator.exit_status in _CUT_OFF:
        return 'pw.x stopped in the middle of its output: it was killed, or the disk is full'
    return job_failure_reason(output)


def _foreign_smearing(trajectory: orm.TrajectoryData, fixed: bool) -> str:
    """Return why a smearing that was only to help the SCF made another level of theory, or an empty string."""
    if not fixed or trajectory.creator.inputs.parameters.get_dict()['SYSTEM'].get('occupations') != 'smearing':
        return ''
    energy = 0.0
    if 'energy_smearing' in trajectory.get_arraynames():
        energy = abs(float(trajectory.get_array('energy_smearing')[-1])) / len(trajectory.symbols)
    if energy <= _NEGLIGIBLE_SMEARING:
        return ''
    return f'the SCF converged only with smearing, which changes the energy by {energy:.1e} eV per atom: no insulator'


@calcfunction
def collect_pw_labels(frames: ConfigurationsData, level_of_theory: orm.Dict, **results: orm.Data) -> ConfigurationsData:
    """Return ``frames`` with the labels of their pw.x calculations.

    ``results`` holds by frame the trajectory of a calculation, or whatever a failed one left behind, and the labels of
    shared jobs. The energy is the one that belongs to the forces (with smearing, pw.x prints the free energy as total
    energy). The stress of pw.x is positive under compression and comes in GPa. A molecule has no stress.
    """
    configurations = frames.configurations
    insulator = level_of_theory.get_dict()['system'].get('occupations', 'fixed') == 'fixed'
    found: dict[str, Any] = {}
    for key, output in results.items():
        found.update(unpack_labels(output) if key.startswith(SHARED) else {key: output})

    def read(index: int, output: Any) -> Label | str:
        if isinstance(output, orm.Data):
            output = _values(output, fixed=insulator and bool(configurations.role[index] != 'isolated_atom'))
        return output if isinstance(output, str) else _label(output, bool(configurations.pbc[index].any()))

    return label_frames(frames, level_of_theory, found, read)


def _values(output: orm.Data, *, fixed: bool) -> dict[str, Any] | str:
    """Return what the calculation that left ``output`` computed, or why it gives no label."""
    calculation = output.creator
    if not isinstance(output, orm.TrajectoryData) or calculation is None or calculation.exit_status != 0:
        return pw_failure_reason(output)
    names = output.get_arraynames()
    absent = [name for name in ('energy', 'forces') if name not in names]
    if absent:
        return f'pw.x returned no {" and no ".join(absent)}'
    smearing = _foreign_smearing(output, fixed)
    if smearing:
        return smearing
    errors = scf_force_errors(retrieved_text(calculation.outputs.retrieved, 'aiida.out'))[-1:]
    values = {name: output.get_array(name)[-1] for name in ('forces', *PER_FRAME) if name in names}
    return {**values, **({'scf_force_error': errors[0]} if errors.size else {})}


def _label(values: Mapping[str, Any], periodic: bool) -> Label:
    stress = None
    if 'stress' in values and periodic:
        stress = (-np.asarray(values['stress']) * GPA)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return Label(
        energy=float(values['energy']),
        forces=np.asarray(values['forces']),
        stress=stress,
        magnetization=float(values.get('total_magnetization', np.nan)),
        scf_force_error=float(values.get('scf_force_error', np.nan)),
    )
