"""What pw.x said: energies, forces, stress, magnetization, how exact they are, and why a calculation failed."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.units import BOHR, GPA, RY_TO_EV
from aiida_mlipal.workflows.engines.base import failure_reason

__all__ = ('collect_pw_labels', 'disk_is_full', 'pw_failure_reason', 'scf_force_error', 'was_interrupted')

#: eV per atom. Below it, a smearing that only helped an insulator to converge changes nothing.
_NEGLIGIBLE_SMEARING: Final = 1e-5
#: What pw.x, the shell or the scheduler print, and what it means. The first that is found counts.
_SIGNS: Final = (
    (r'No space left on device', 'no space was left on the device'),
    (r'[Dd]isk quota exceeded', 'the disk quota was used up'),
    (r'oom-kill|[Oo]ut of memory', 'the job ran out of memory'),
    (r'atoms #\s*(\d+) and #\s*(\d+) overlap', 'atoms {} and {} are on top of each other'),
    (r'convergence NOT achieved after\s+(\d+) iterations', 'the SCF did not converge in {} steps'),
    (r'Maximum CPU time exceeded', 'the wall time ran out'),
    (r'from (\w+)\s*: error #.*\n\s*(.+?)\s*\n', 'pw.x stopped in {}: {}'),
    (r'\bKilled\b', 'pw.x was killed'),
    (r'[Ss]egmentation fault', 'pw.x crashed: segmentation fault'),
)
#: Exit codes of schedulers and of ``PwCalculation``, where nothing above was printed.
_CODES: Final = {
    110: 'the job ran out of memory',
    120: 'the wall time ran out',
    140: 'the node failed',
    340: 'the wall time ran out',
    400: 'the wall time ran out',
}
#: Output missing, unreadable or cut off.
_CUT_OFF: Final = (302, 303, 305, 310, 311, 312, 320, 321, 322)


def _text(retrieved: orm.Data, *names: str) -> str:
    """Return the files ``names`` of a retrieved folder, one after the other; what is missing is left out."""
    if not isinstance(retrieved, orm.FolderData):
        return ''
    present = retrieved.base.repository.list_object_names()
    contents = [retrieved.base.repository.get_object_content(name, 'rb') for name in names if name in present]
    return '\n'.join(bytes(content).decode(errors='replace') for content in contents)


def _messages(retrieved: orm.Data) -> str:
    """Return what a failed calculation printed, the most telling file first."""
    return _text(retrieved, 'CRASH', '_scheduler-stderr.txt', 'aiida.out')


def scf_force_error(retrieved: orm.Data) -> float:
    """Return the correction of the forces for an SCF that is not exact, in eV/Å, NaN where pw.x printed none.

    pw.x prints ``Total SCF correction``, the norm over all atoms in Ry/bohr, behind the forces; the parser of
    aiida-quantumespresso leaves it out.
    """
    found = re.findall(r'Total SCF correction\s*=\s*([\d.]+)', _text(retrieved, 'aiida.out'))
    return float(found[-1]) * RY_TO_EV / BOHR if found else float('nan')


def disk_is_full(retrieved: orm.Data) -> bool:
    """Return whether the calculation found no space to write to."""
    return any(re.search(pattern, _messages(retrieved)) is not None for pattern, _ in _SIGNS[:2])


def was_interrupted(calculation: orm.CalcJobNode) -> bool:
    """Return whether something outside ended pw.x: its output is cut off, and it did not stop with an error itself."""
    if calculation.exit_status == 140:
        return True
    retrieved = calculation.outputs.retrieved if 'retrieved' in calculation.outputs else None
    return (
        calculation.exit_status in _CUT_OFF
        and retrieved is not None
        and not _text(retrieved, 'CRASH')
        and not disk_is_full(retrieved)
    )


def pw_failure_reason(output: orm.Data) -> str:
    """Return why the calculation that left ``output`` gave no label: short, physical, equal for equal failures."""
    creator = output.creator
    if creator is None or creator.exit_status is None:
        return failure_reason(output)
    if creator.exit_status == 0:
        return 'the highest band stayed occupied: raise `nbnd`'
    messages = _messages(output)
    for pattern, reason in _SIGNS:
        match = re.search(pattern, messages)
        if match is not None:
            return reason.format(*match.groups())
    if creator.exit_status in _CODES:
        return _CODES[creator.exit_status]
    if creator.exit_status in _CUT_OFF:
        return 'pw.x stopped in the middle of its output: it was killed, or the disk is full'
    return failure_reason(output)


def _foreign_smearing(calculation: orm.CalcJobNode, trajectory: orm.TrajectoryData, fixed: bool) -> str:
    """Return why a smearing that was only to help the SCF made another level of theory, or an empty string."""
    if not fixed or calculation.inputs.parameters.get_dict()['SYSTEM'].get('occupations') != 'smearing':
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
    n_frames = len(configurations)
    columns = {name: np.full(n_frames, np.nan) for name in ('energy', 'magnetization', 'scf_force_error')}
    stress, forces = np.full((n_frames, 6), np.nan), np.full((int(configurations.n_atoms.sum()), 3), np.nan)
    status, reason = ['rejected'] * n_frames, ['no calculation returned a label'] * n_frames
    offsets = configurations.offsets
    fixed = level_of_theory.get_dict()['system'].get('occupations', 'fixed') == 'fixed'
    for index in range(n_frames):
        output = results.get(frame_key(index))
        if output is None:
            continue
        calculation = output.creator
        if not isinstance(output, orm.TrajectoryData) or calculation is None or calculation.exit_status != 0:
            reason[index] = pw_failure_reason(output)
            continue
        names = output.get_arraynames()
        absent = [name for name in ('energy', 'forces') if name not in names]
        reason[index] = f'pw.x returned no {" and no ".join(absent)}' if absent else ''
        if not absent and configurations.role[index] != 'isolated_atom':
            reason[index] = _foreign_smearing(calculation, output, fixed)
        if reason[index]:
            continue
        status[index] = 'labelled'
        columns['energy'][index] = output.get_array('energy')[-1]
        forces[offsets[index] : offsets[index + 1]] = output.get_array('forces')[-1]
        columns['scf_force_error'][index] = scf_force_error(calculation.outputs.retrieved)
        if 'total_magnetization' in names:
            columns['magnetization'][index] = output.get_array('total_magnetization')[-1]
        if 'stress' in names and configurations.pbc[index].any():
            tensor = -np.asarray(output.get_array('stress')[-1]) * GPA
            stress[index] = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    labelled = configurations.with_columns(stress=stress, forces=forces, status=status, reason=reason, **columns)
    return ConfigurationsData(labelled, level_of_theory=level_of_theory.get_dict())
