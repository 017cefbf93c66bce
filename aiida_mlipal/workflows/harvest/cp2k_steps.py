"""The ionic steps of finished CP2K calculations, as labels, from the files that were retrieved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase import Atoms
from numpy.typing import NDArray

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cp2k_output import SinglePoint, read_evaluations
from aiida_mlipal.science.cp2k_trajectory import XyzStep, read_cells, read_restart, read_xyz
from aiida_mlipal.science.units import BOHR, HARTREE_TO_EV
from aiida_mlipal.workflows.engines.cp2k_level_of_theory import kinds_of
from aiida_mlipal.workflows.engines.cp2k_outputs import output_text
from aiida_mlipal.workflows.harvest.cp2k_theory import periodicity, plain_sections, spin_of
from aiida_mlipal.workflows.harvest.steps import labelled_steps

__all__ = ('Steps', 'harvest_cp2k', 'ionic_steps', 'read_steps', 'run_type')

#: Names that aiida-cp2k gives; it retrieves all of them.
_POSITIONS, _FORCES, _CELLS, _RESTART = 'aiida-pos-1.xyz', 'aiida-frc-1.xyz', 'aiida-1.cell', 'aiida-1.restart'
#: Ensembles whose cell stays what it was.
_FIXED_CELL: Final = ('NVE', 'NVT', 'NVT_ADIABATIC', 'LANGEVIN', 'ISOKIN')
#: Ha. The trajectory has energies with 10 decimals.
_ROUNDING: Final = 1e-10
#: Å. The trajectory has positions with 10 decimals, the restart file all digits.
_SAME: Final = 1e-9
_FORCE_UNIT: Final = HARTREE_TO_EV / BOHR
_OTHER_NAMES: Final = {'OPTIMIZER': 'MINIMIZER'}
_UNITS: Final = {'TRAJECTORY': ('ANGSTROM',), 'FORCES': ('HARTREE*BOHR^-1',)}


@calcfunction
def harvest_cp2k(level_of_theory: orm.Dict, **retrieved: orm.FolderData) -> ConfigurationsData:
    """Return every ionic step of finished CP2K calculations, as they were computed, neither judged nor thinned.

    Structure and parameters are read from the calculation that retrieved the files, which links them: to pass them as
    inputs too would make a call with N calculations several times as slow.
    """
    frames = [ionic_steps(retrieved[key]) for key in sorted(retrieved)]
    return ConfigurationsData(Configurations.concatenate(frames), level_of_theory=level_of_theory.get_dict())


@dataclass(frozen=True)
class Steps:
    """Ionic steps whose positions, cell, energy and forces are known."""

    numbers: list[int]  #: CP2K's
    positions: NDArray[np.float64]  #: Å, shape ``(n_steps, n_atoms, 3)``
    cells: NDArray[np.float64]  #: Å, shape ``(n_steps, 3, 3)``
    evaluations: list[SinglePoint]
    forces: NDArray[np.float64]  #: eV/Å, shape ``(n_steps, n_atoms, 3)``
    missing: str  #: what was not printed of other steps, or nothing


class _Point(NamedTuple):
    """Positions at which CP2K has evaluated energy and forces."""

    number: int
    positions: NDArray[np.float64]
    evaluation: SinglePoint
    forces: NDArray[np.float64] | None
    cell: NDArray[np.float64] | None


def run_type(parameters: Mapping[str, Any]) -> str:
    """Return the kind of calculation."""
    return str(parameters.get('GLOBAL', {}).get('RUN_TYPE', 'ENERGY_FORCE')).upper()


def read_steps(retrieved: orm.FolderData, parameters: Mapping[str, Any], structure: Mapping[str, Any]) -> Steps:
    """Return the ionic steps that a calculation has left.

    :param parameters: plain sections.
    :param structure: attributes of the StructureData.
    :raises ValueError: saying what is missing, if there is none.
    """
    kind = run_type(parameters)
    if kind == 'ENERGY_FORCE' and 'EXT_RESTART' in parameters:
        raise ValueError(f'{kind} from a restart file: its positions are in none of the retrieved files')
    evaluations = read_evaluations(output_text(retrieved))
    if not evaluations:
        raise ValueError(f'{kind} without an energy in the output file')
    n_atoms = len(structure['sites'])
    points = _points(retrieved, parameters, structure, evaluations)
    vague = _vague_steps(parameters)
    if not points:
        raise ValueError(
            f'{kind}: {vague}'
            if vague
            else f'{kind} without positions: MOTION.PRINT.TRAJECTORY off, or not in xyz and Å'
        )
    with_forces = [point for point in points if point.forces is not None and len(point.forces) == n_atoms]
    if not with_forces:
        printed = 'FORCE_EVAL.PRINT.FORCES was' if kind == 'ENERGY_FORCE' else 'neither kind of PRINT.FORCES was'
        raise ValueError(f'{kind} without forces: {printed} on')
    taken = [point for point in with_forces if point.cell is not None]
    if not taken:
        raise ValueError(f'{kind} without cells: MOTION.PRINT.CELL was off')
    missing = [
        *([f'an energy of their own ({vague})'] if vague else []),
        *(['forces'] if len(with_forces) < len(points) else []),
        *(['cell (MOTION.PRINT.CELL)'] if len(taken) < len(with_forces) else []),
    ]
    return Steps(
        numbers=[point.number for point in taken],
        positions=np.array([point.positions for point in taken]),
        cells=np.array([point.cell for point in taken]),
        evaluations=[point.evaluation for point in taken],
        forces=np.array([point.forces for point in taken]),
        missing=' and '.join(missing),
    )


def _points(
    retrieved: orm.FolderData,
    parameters: Mapping[str, Any],
    structure: Mapping[str, Any],
    evaluations: list[SinglePoint],
) -> list[_Point]:
    """Return what was evaluated at known positions, in order.

    Relaxations evaluate trial positions that are in no file. A step of the trajectory is recognised by its energy. The
    first evaluation is of the structure, unless CP2K went on from a restart file.
    """
    cell = np.asarray(structure['cell'], dtype=float)
    start = np.array([site['position'] for site in structure['sites']], dtype=float)
    from_structure = 'EXT_RESTART' not in parameters
    if run_type(parameters) == 'ENERGY_FORCE':
        last = evaluations[-1]
        return [_Point(0, start, last, last.forces, cell)]
    forces = {step.number: step for step in _xyz(retrieved, parameters, 'FORCES', _FORCES)}
    trajectory = [] if _vague_steps(parameters) else _xyz(retrieved, parameters, 'TRAJECTORY', _POSITIONS)
    cells = _Cells(retrieved, parameters, cell, fixed=_keeps_cell(parameters), from_structure=from_structure)
    energies = np.array([np.nan if point.energy is None else point.energy for point in evaluations]) / HARTREE_TO_EV
    points: list[_Point] = []
    following = 0
    if from_structure:
        number = trajectory[0].number - 1 if trajectory else 0
        first = evaluations[0]
        if trajectory and abs(trajectory[0].energy - energies[0]) < _ROUNDING:
            step = trajectory.pop(0)
            number, first_forces = step.number, _forces_of(first, step, forces)
        else:
            first_forces = first.forces
        points.append(_Point(max(number, 0), start, first, first_forces, cell))
        following = 1
    for step in trajectory:
        same = following + np.flatnonzero(np.abs(energies[following:] - step.energy) < _ROUNDING)
        if not len(same):
            continue
        index = next((int(index) for index in same if evaluations[index].forces is not None), int(same[0]))
        evaluation, following = evaluations[index], index + 1
        points.append(
            _Point(step.number, step.values, evaluation, _forces_of(evaluation, step, forces), cells.of(step))
        )
    return points


def _forces_of(evaluation: SinglePoint, step: XyzStep, forces: Mapping[int, XyzStep]) -> NDArray[np.float64] | None:
    """Return the forces (eV/Å) that CP2K printed with the energy, else those in the file of forces."""
    if evaluation.forces is not None or step.number not in forces:
        return evaluation.forces
    printed = forces[step.number]
    return printed.values * _FORCE_UNIT if abs(printed.energy - step.energy) < _ROUNDING else None


def _vague_steps(parameters: Mapping[str, Any]) -> str:
    """Return why energy and positions of a step do not belong together, or an empty string.

    With conjugate gradients CP2K 2023.1 prints the energy of the best trial of a line search beside the positions of
    the last one: up to 5e-6 eV off for a water molecule.
    """
    kind = run_type(parameters)
    section = parameters.get('MOTION', {}).get(kind, {}) if kind in ('GEO_OPT', 'CELL_OPT') else {}
    for keyword, usual in (('OPTIMIZER', ('BFGS', 'LBFGS')), ('TYPE', ('DIRECT_CELL_OPT', 'MINIMIZATION'))):
        stated = str(section.get(keyword, section.get(_OTHER_NAMES.get(keyword), usual[0]))).upper()
        if stated not in usual:
            return f'{keyword} {stated} prints an energy that is not that of the positions'
    return ''


def _keeps_cell(parameters: Mapping[str, Any]) -> bool:
    kind = run_type(parameters)
    ensemble = parameters.get('MOTION', {}).get('MD', {}).get('ENSEMBLE', 'NVE')
    return kind == 'GEO_OPT' or (kind == 'MD' and str(ensemble).upper() in _FIXED_CELL)


class _Cells:
    """The cells of ionic steps: of the structure if they stay, else from the files that have them."""

    def __init__(
        self,
        retrieved: orm.FolderData,
        parameters: Mapping[str, Any],
        cell: NDArray[np.float64],
        *,
        fixed: bool,
        from_structure: bool,
    ) -> None:
        self._fixed = cell if fixed and from_structure else None
        self._printed = read_cells(_content(retrieved, _CELLS)) if self._fixed is None else {}
        self._restart = read_restart(_content(retrieved, _RESTART)) if self._fixed is None else None
        if fixed and self._restart is not None:
            self._fixed = self._restart[0]

    def of(self, step: XyzStep) -> NDArray[np.float64] | None:
        """Return the cell (Å) of a step, ``None`` if it is in no file."""
        if self._fixed is not None or step.number in self._printed:
            return self._fixed if self._fixed is not None else self._printed[step.number]
        if self._restart is not None and self._restart[1].shape == step.values.shape:
            cell, positions = self._restart
            return cell if np.abs(positions - step.values).max() < _SAME else None
        return None


def _content(retrieved: orm.FolderData, name: str) -> str:
    present = name in retrieved.base.repository.list_object_names()
    return bytes(retrieved.base.repository.get_object_content(name, 'rb')).decode(errors='replace') if present else ''


def _xyz(retrieved: orm.FolderData, parameters: Mapping[str, Any], section: str, name: str) -> list[XyzStep]:
    """Return the steps in a file of positions or forces; none if they have another unit than is usual."""
    printed = parameters.get('MOTION', {}).get('PRINT', {}).get(section, {})
    unit = str(printed.get('UNIT', _UNITS[section][0])) if isinstance(printed, Mapping) else _UNITS[section][0]
    return read_xyz(_content(retrieved, name)) if unit.upper() in _UNITS[section] else []


def ionic_steps(retrieved: orm.FolderData) -> Configurations:
    """Return the ionic steps of one calculation."""
    inputs = retrieved.creator.inputs
    parameters, structure = plain_sections(inputs.parameters.get_dict()), inputs.structure
    steps = read_steps(retrieved, parameters, structure.base.attributes.all)
    symbols = {item.name: item.symbol for item in structure.kinds}
    pbc = periodicity(parameters)
    atoms = Atoms([symbols[site.kind_name] for site in structure.sites], cell=structure.cell, pbc=pbc)
    stress = np.array([np.full(6, np.nan) if said.stress is None else said.stress for said in steps.evaluations])
    if not all(pbc) or str(parameters['FORCE_EVAL'].get('STRESS_TENSOR', 'NONE')).upper().startswith('DIAGONAL'):
        stress[:] = np.nan
    _, multiplicity = spin_of(parameters)
    return labelled_steps(
        atoms,
        steps.positions,
        steps.cells,
        {
            'energy': _numbers([said.energy for said in steps.evaluations]),
            'forces': steps.forces,
            'stress': stress,
            'magnetization': _numbers([said.magnetization for said in steps.evaluations]),
        },
        [_reason(said) for said in steps.evaluations],
        kind=run_type(parameters).lower().replace('_', '-'),
        step=np.array(steps.numbers),
        initial_moments=_moments(parameters, structure),
        charge=int(parameters['FORCE_EVAL']['DFT'].get('CHARGE', 0)),
        multiplicity=multiplicity,
    )


def _numbers(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])


def _reason(evaluation: SinglePoint) -> str:
    """Return why a step is no label, or an empty string."""
    if not evaluation.converged:
        return 'the SCF did not converge'
    return 'the energy is missing' if evaluation.energy is None else ''


def _moments(parameters: Mapping[str, Any], structure: orm.StructureData) -> NDArray[np.float64]:
    """Return the initial moment of each atom, µB, as its KIND states it."""
    free, _ = spin_of(parameters)
    kinds = kinds_of(parameters) if free else {}
    symbols = {item.name: item.symbol for item in structure.kinds}
    sections = [kinds.get(site.kind_name, kinds.get(symbols[site.kind_name], {})) for site in structure.sites]
    return np.array([float(section.get('MAGNETIZATION', 0.0)) for section in sections])
