"""What CP2K cannot label, or would label with something else than was meant: refused before anything is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines.base import frame_problems
from aiida_mlipal.workflows.engines.cp2k_inputs import n_electrons, uses_ot
from aiida_mlipal.workflows.engines.cp2k_level_of_theory import is_xtb, kinds_of, valences_of

__all__ = ('check_cp2k_frames', 'check_cp2k_parameters')

_DIAGONALISE: Final = 'set `FORCE_EVAL: {DFT: {SCF: {DIAGONALIZATION: {ALGORITHM: STANDARD}}}}` instead of OT'


def check_cp2k_parameters(parameters: Mapping[str, Any], *, k_points: bool) -> str | None:
    """Return what is wrong with the sections that all frames share, and what to do, or ``None``."""
    scf = parameters['FORCE_EVAL']['DFT'].get('SCF', {})
    run_type = parameters.get('GLOBAL', {}).get('RUN_TYPE', 'ENERGY_FORCE')
    if run_type != 'ENERGY_FORCE':
        return f'a label is a single point, but RUN_TYPE is {run_type}: set `GLOBAL: {{RUN_TYPE: ENERGY_FORCE}}`.'
    if uses_ot(parameters) and 'SMEAR' in scf:
        return f'OT and SMEAR exclude each other; remove SMEAR where there is a gap, for a metal {_DIAGONALISE}.'
    if uses_ot(parameters) and k_points:
        return f'OT knows no k-points: remove `kpoints_distance` and use a large enough cell, or {_DIAGONALISE}.'
    return None


def check_cp2k_frames(
    frames: Configurations, parameters: Mapping[str, Any], *, k_points: bool, potentials: str | None
) -> list[str]:
    """Return why some of ``frames`` cannot be labelled, each with the mend.

    :param potentials: text of the potentials that are used, ``None`` for xTB.
    """
    missing = [] if is_xtb(parameters) else [name for name in frames.elements if name not in kinds_of(parameters)]
    if missing:
        return [
            f'no basis set and potential for {", ".join(missing)}: the inputs have '
            f'{", ".join(sorted(kinds_of(parameters)))}. Build them from structures with all elements, or add '
            '`{_: ELEMENT, BASIS_SET: ..., POTENTIAL: ...}` to FORCE_EVAL.SUBSYS.KIND.'
        ]
    valences = valences_of(frames.elements, potentials)
    return frame_problems(
        frames,
        partial(_method_problem, parameters=parameters),
        partial(_cell_problem, k_points=k_points),
        partial(_charge_problem, stated=parameters['FORCE_EVAL']['DFT'].get('CHARGE')),
        partial(_moment_problem, parameters=parameters, valences=valences),
    )


def _method_problem(frames: Configurations, index: int, parameters: Mapping[str, Any]) -> str:
    """For crystals CP2K's own xTB is off by 0.4 to 1.5 eV per atom, and by more with another cut-off of a lattice sum.

    CP2K 2023.1 and earlier, against tblite, for Si, SiC, NaCl and MgO; no check of the labels could find it, because
    forces and stress are the derivatives of these energies all the same. Molecules are right.
    """
    if not is_xtb(parameters) or not frames.pbc[index].any():
        return ''
    if 'COULOMB_SR_CUT' in parameters['FORCE_EVAL']['DFT']['QS'].get('XTB', {}).get('PARAMETER', {}):
        return ''
    return (
        "is periodic, where energies of CP2K's own xTB depend on the cut-off of a lattice sum, by 0.1 to 7 eV per atom "
        'in crystals: take `engine: ase` with `parameters: {calculator: tblite, parameters: {method: GFN1-xTB}}`. If '
        'you have found this CP2K to be right for your system, state the cut-off (bohr), '
        '`FORCE_EVAL: {DFT: {QS: {XTB: {PARAMETER: {COULOMB_SR_CUT: 20}}}}}`: it becomes part of the level of theory.'
    )


def _cell_problem(frames: Configurations, index: int, *, k_points: bool) -> str:
    periodic, cell = frames.pbc[index], frames.cell[index]
    if not periodic.any():
        if k_points:
            return (
                'is not periodic, but the inputs are set up for crystals (`kpoints_distance`): label molecules in a '
                'campaign of their own without it, or make the frame periodic (`atoms.pbc = True`).'
            )
        return ''
    if abs(np.linalg.det(cell)) < 1e-6:
        return 'is periodic, but has no cell: set `atoms.cell` (in ASE, `atoms.center(vacuum=8, axis=2)` for a slab).'
    if not periodic.all() and np.abs(cell - np.diag(np.diag(cell))).max() > 1e-6:
        return (
            'is periodic in some directions only, for which CP2K needs cell vectors along x, y and z: choose a '
            'rectangular cell, or make it periodic in all directions with enough vacuum (`atoms.pbc = True`).'
        )
    return ''


def _charge_problem(frames: Configurations, index: int, stated: Any) -> str:
    """CP2K silently neutralises a charged periodic cell with a uniform background, whose energy depends on the cell."""
    charge = int(frames.charge[index])
    if stated is not None and int(stated) != charge:
        return (
            f'has charge {charge:+d}, but `FORCE_EVAL: {{DFT: {{CHARGE: {stated}}}}}` is meant for all frames: give '
            'the frames that `charge`, or remove CHARGE.'
        )
    if charge and stated is None and frames.pbc[index].any():
        return (
            f'has charge {charge:+d} in a periodic cell, which CP2K would neutralise by a uniform background without '
            'saying so: for a molecule set `atoms.pbc = False`; if the background is meant, state '
            f'`FORCE_EVAL: {{DFT: {{CHARGE: {charge}}}}}`: it becomes part of the level of theory.'
        )
    return ''


def _moment_problem(
    frames: Configurations, index: int, parameters: Mapping[str, Any], valences: Mapping[str, float]
) -> str:
    """Without smearing the multiplicity is fixed, and must be one that moments and electrons allow."""
    moments = frames.initial_moments[frames.offsets[index] : frames.offsets[index + 1]]
    electrons, total = n_electrons(frames, index, valences), abs(float(moments.sum()))
    if 'SMEAR' in parameters['FORCE_EVAL']['DFT'].get('SCF', {}) or frames.multiplicity[index] or not moments.any():
        return ''
    if round(total) > electrons or (round(total) + electrons) % 2:
        return (
            f'has {electrons} valence electrons and initial moments that add up to {total:g} µB, which no integer '
            'occupation gives: set `multiplicity`, other moments, or SMEAR for a metal.'
        )
    return ''
