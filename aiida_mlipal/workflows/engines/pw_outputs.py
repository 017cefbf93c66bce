"""What pw.x said: energies, forces, stress, magnetization, how exact they are, and why a calculation failed."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import calcfunction

from aiida_mlipal.calculations.pw_batch import stdout_name
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.units import BOHR, GPA, RY_TO_EV
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

__all__ = ('collect_pw_labels', 'disk_is_full', 'pw_failure_reason', 'scf_force_error', 'was_interrupted')

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


def _own_parameters(output: orm.Data) -> orm.Dict:
    """Return the parameters that ``output`` was computed with, in a job of its own or a shared one."""
    inputs = output.creator.inputs
    parameters: orm.Dict = inputs.parameters if 'parameters' in inputs else inputs.frames[_frame_of(output)].parameters
    return parameters


def _frame_of(output: orm.Data) -> str:
    """Return which frame of a shared job has left ``output``, an empty string for a job of its own."""
    if output.creator.process_label != 'PwBatchCalculation':
        return ''
    label: str = output.base.links.get_incoming(link_type=LinkType.CREATE).one().link_label
    return label.removeprefix('trajectories__')


def _messages(retrieved: orm.Data) -> str:
    """Return what a failed calculation printed, the most telling file first."""
    return retrieved_text(retrieved, 'CRASH', '_scheduler-stderr.txt', 'aiida.out')


def scf_force_error(retrieved: orm.Data, file: str = 'aiida.out') -> float:
    """Return the correction of the forces for an SCF that is not exact, in eV/Å, NaN where pw.x printed none.

    pw.x prints ``Total SCF correction``, the norm over all atoms in Ry/bohr, behind the forces; the parser of
    aiida-quantumespresso leaves it out.
    """
    found = re.findall(r'Total SCF correction\s*=\s*([\d.]+)', retrieved_text(retrieved, file))
    return float(found[-1]) * RY_TO_EV / BOHR if found else float('nan')


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
    if not fixed or _own_parameters(trajectory).get_dict()['SYSTEM'].get('occupations') != 'smearing':
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

    ``results`` holds by frame the trajectory of a calculation, or whatever a failed one left behind. The energy is the
    one that belongs to the forces (with smearing, pw.x prints the free energy as total energy). The stress of pw.x is
    positive under compression and comes in GPa. A molecule has no stress.
    """
    configurations = frames.configurations
    insulator = level_of_theory.get_dict()['system'].get('occupations', 'fixed') == 'fixed'

    def read(index: int, output: orm.Data) -> Label | str:
        fixed = insulator and bool(configurations.role[index] != 'isolated_atom')
        return _read(output, fixed=fixed, periodic=bool(configurations.pbc[index].any()))

    return label_frames(frames, level_of_theory, results, read)


def _read(output: orm.Data, *, fixed: bool, periodic: bool) -> Label | str:
    calculation = output.creator
    if not isinstance(output, orm.TrajectoryData) or calculation is None:
        return pw_failure_reason(output)
    shared = _frame_of(output)  # a shared job returns nothing but what ended well
    if calculation.exit_status != 0 and not shared:
        return pw_failure_reason(output)
    names = output.get_arraynames()
    absent = [name for name in ('energy', 'forces') if name not in names]
    if absent:
        return f'pw.x returned no {" and no ".join(absent)}'
    smearing = _foreign_smearing(output, fixed)
    if smearing:
        return smearing

    def last(name: str) -> Any:
        return output.get_array(name)[-1]

    stress = None
    if 'stress' in names and periodic:
        stress = (-np.asarray(last('stress')) * GPA)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return Label(
        energy=float(last('energy')),
        forces=np.asarray(last('forces')),
        stress=stress,
        magnetization=float(last('total_magnetization')) if 'total_magnetization' in names else float('nan'),
        scf_force_error=scf_force_error(calculation.outputs.retrieved, stdout_name(shared) if shared else 'aiida.out'),
    )
