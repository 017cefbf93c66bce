"""The ionic steps of finished pw.x calculations, as labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase import Atoms
from numpy.typing import NDArray

from aiida_mlipal.calculations.pw_inputs import pseudo_valence
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.pw_output import scf_force_errors
from aiida_mlipal.science.units import GPA
from aiida_mlipal.workflows.harvest.steps import labelled_steps

__all__ = ('fixes_spin', 'harvest_pw', 'ionic_steps', 'namelists')

_ARRAYS: Final = (
    'positions', 'cells', 'energy', 'forces', 'stress', 'total_magnetization', 'scf_iterations',
)  # fmt: skip
#: Exit statuses after which the last SCF, with the basis of the final cell, is no label.
_FINAL_SCF_FAILED: Final = (510, 511, 521)
#: What pw.x prints before it, some versions with an article.
_FINAL_SCF: Final = b'final scf calculation at the relaxed structure'
#: Largest change of a length since the plane waves were chosen. pw.x keeps them while the cell changes; 0.5 % change
#: the effective cutoff by 1 %.
_MAX_STRAIN: Final = 0.005


@calcfunction
def harvest_pw(level_of_theory: orm.Dict, **trajectories: orm.TrajectoryData) -> ConfigurationsData:
    """Return every ionic step of finished pw.x calculations, as they were computed, neither judged nor thinned.

    Structure, parameters and k-points are read from the calculation that created the trajectory, which links them: to
    pass them as inputs too would make a call with N calculations several times as slow.
    """
    description = level_of_theory.get_dict()
    frames = [ionic_steps(trajectories[key], description) for key in sorted(trajectories)]
    return ConfigurationsData(Configurations.concatenate(frames), level_of_theory=description)


def namelists(parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return namelists in upper and keywords in lower case, as pw.x is given them."""
    found = {
        name.upper(): {keyword.lower(): value for keyword, value in namelist.items()}
        for name, namelist in parameters.items()
        if isinstance(namelist, dict)
    }
    return {'CONTROL': {}, 'SYSTEM': {}, 'ELECTRONS': {}, **found}


def fixes_spin(system: Mapping[str, Any]) -> bool:
    """Return whether a calculation is of one spin state, which a frame states as its multiplicity."""
    moment = system.get('tot_magnetization')
    return int(system.get('nspin', 1)) == 2 and moment is not None and float(moment).is_integer() and float(moment) >= 0


def ionic_steps(trajectory: orm.TrajectoryData, level_of_theory: Mapping[str, Any]) -> Configurations:
    """Return the ionic steps of one calculation."""
    calculation = trajectory.creator
    structure, parameters = calculation.inputs.structure, namelists(calculation.inputs.parameters.get_dict())
    kind = parameters['CONTROL'].get('calculation', 'scf')
    names = [name for name in trajectory.get_arraynames() if name in _ARRAYS]
    arrays = {name: np.asarray(trajectory.get_array(name)) for name in names}
    positions, cells = arrays['positions'], arrays['cells']
    n_steps, n_atoms = positions.shape[:2]
    stdout, final_scf = _stdout(calculation), False
    if kind == 'vc-relax' and len(arrays['energy']) == n_steps + 1:
        # Behind the steps stands what the output ends with: the SCF of the final cell with a basis of its own, or, if
        # the relaxation did not converge, the last step once more. The parser does not know the words of every version.
        final_scf = _FINAL_SCF in stdout.lower() and calculation.exit_status not in _FINAL_SCF_FAILED
        if final_scf:
            positions, cells = np.concatenate((positions, positions[-1:])), np.concatenate((cells, cells[-1:]))
            n_steps += 1
    labels = _labels(arrays, n_steps, n_atoms, stdout)
    iterations = labels.pop('scf_iterations')
    strains = _strains(cells, structure.cell)
    if final_scf:
        strains[-1] = 0.0
    reasons = [
        _reason(
            labels['energy'][step], labels['forces'][step], iterations[step], strains[step], parameters['ELECTRONS']
        )
        for step in range(n_steps)
    ]
    if not any(structure.pbc):
        labels['stress'] = np.full_like(labels['stress'], np.nan)
    system = parameters['SYSTEM']
    multiplicity = 0
    if fixes_spin(system) and 'tot_magnetization' not in level_of_theory.get('system', {}):
        multiplicity = int(system['tot_magnetization']) + 1
    symbols = {item.name: item.symbol for item in structure.kinds}
    atoms = Atoms([symbols[site.kind_name] for site in structure.sites], cell=structure.cell, pbc=structure.pbc)
    return labelled_steps(
        atoms,
        positions,
        cells,
        labels,
        reasons,
        kind=kind,
        initial_moments=_moments(calculation, system, multiplicity),
        charge=round(float(system.get('tot_charge', 0))),
        multiplicity=multiplicity,
    )


def _reason(
    energy: float, forces: NDArray[np.float64], iterations: float, strain: float, electrons: Mapping[str, Any]
) -> str:
    """Return why a step is no label, or an empty string."""
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        return 'energy or forces are missing'
    limit = int(electrons.get('electron_maxstep', 100))
    if not electrons.get('scf_must_converge', True) and not iterations < limit:
        return f'the SCF did not converge in {limit} steps'
    if strain > _MAX_STRAIN:
        return (
            f'the cell has changed by more than {_MAX_STRAIN:.1%} since pw.x chose the plane waves: the energy is not '
            'that of a calculation of its own'
        )
    return ''


def _strains(cells: NDArray[np.float64], reference: Any) -> NDArray[np.float64]:
    """Return the largest relative change of a length in each cell."""
    stretches = np.linalg.svd(np.linalg.solve(np.asarray(reference, dtype=float), cells), compute_uv=False)
    strains: NDArray[np.float64] = np.abs(stretches - 1).max(axis=1)
    return strains


def _moments(calculation: orm.CalcJobNode, system: Mapping[str, Any], multiplicity: int) -> NDArray[np.float64]:
    """Return the initial moment of each atom, µB: pw.x is given it as a share of the valence electrons."""
    structure, start = calculation.inputs.structure, system.get('starting_magnetization')
    sites = [site.kind_name for site in structure.sites]
    if multiplicity or not isinstance(start, dict) or int(system.get('nspin', 1)) != 2:
        return np.zeros(len(sites))
    pseudos = calculation.inputs.pseudos
    moments = {kind: float(value) * pseudo_valence(pseudos[kind]) for kind, value in start.items() if value}
    return np.array([moments.get(kind, 0.0) for kind in sites])


def _stdout(calculation: orm.CalcJobNode) -> bytes:
    """Return what pw.x printed, nothing if it was not kept."""
    name = calculation.get_option('output_filename')
    if 'retrieved' not in calculation.outputs or name is None:
        return b''
    repository = calculation.outputs.retrieved.base.repository
    return bytes(repository.get_object_content(name, 'rb')) if name in repository.list_object_names() else b''


def _labels(arrays: Mapping[str, NDArray[Any]], n_steps: int, n_atoms: int, stdout: bytes) -> dict[str, NDArray[Any]]:
    """Return what was computed at each step, NaN where nothing was; the stress with ASE's sign."""
    tensor = _column(arrays.get('stress'), n_steps, (3, 3)) * -GPA
    errors = scf_force_errors(stdout.decode(errors='replace'))
    return {
        'energy': _column(arrays['energy'], n_steps, ()),
        'forces': _column(arrays['forces'], n_steps, (n_atoms, 3)),
        'stress': tensor[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        'magnetization': _column(arrays.get('total_magnetization'), n_steps, ()),
        'scf_force_error': _column(errors, n_steps, ()),
        'scf_iterations': _column(arrays.get('scf_iterations'), n_steps, ()),
    }


def _column(values: NDArray[Any] | None, n_steps: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return one value per step, NaN where there are fewer values than steps: nobody knows whose they are."""
    if values is None or values.shape[1:] != shape or len(values) < n_steps:
        return np.full((n_steps, *shape), np.nan)
    return np.asarray(values[:n_steps], dtype=float)
