"""What CP2K cannot label, or would label with something else than was meant: refused before anything is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from aiida_mlipal.science.configurations import Configurations
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
    dft = parameters['FORCE_EVAL']['DFT']
    problems = []
    for index in range(len(frames)):
        if frames.role[index] == 'isolated_atom':
            continue
        for problem in (
            _cell_problem(frames, index, k_points=k_points),
            _charge_problem(frames, index, dft.get('CHARGE')),
            _moment_problem(frames, index, parameters, valences),
        ):
            if problem:
                problems.append(f'frame {index} {problem}')
    return problems


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
