"""What pw.x cannot label, or would label with something else than was meant: refused before anything is submitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from aiida_mlipal.calculations.frames import frame_kinds
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines.base import frame_problems

__all__ = ('check_pw_frames', 'check_pw_parameters')

#: Å between a molecule or slab and its periodic images.
_LEAST_VACUUM: Final = 6.0
#: pw.x knows no more kinds of atoms (ntypx), and their names have three letters.
_MOST_KINDS: Final = 10


def check_pw_parameters(parameters: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the namelists that all frames share, and what to do, or ``None``."""
    control, system = parameters.get('CONTROL', {}), parameters.get('SYSTEM', {})
    if 'ecutwfc' not in system:
        return 'no plane-wave cutoff: set `SYSTEM: {ecutwfc: ...}` (Ry) in the label parameters.'
    if control.get('calculation', 'scf') != 'scf':
        return (
            f'`CONTROL: {{calculation: {control["calculation"]}}}` would move the atoms of a frame; '
            'a label is a single point: set it to `scf`.'
        )
    if not control.get('tprnfor'):
        return 'pw.x would print no forces: set `CONTROL: {tprnfor: true}` in the label parameters.'
    if system.get('nspin', 1) == 2 and system.get('occupations') == 'fixed' and 'tot_magnetization' not in system:
        return (
            'fixed occupations with `nspin: 2` need `tot_magnetization`; set it, or let the moments find their size '
            'with `occupations: smearing`.'
        )
    if not isinstance(system.get('starting_magnetization', {}), dict):
        return '`starting_magnetization` must be given by element, for example {Fe: 0.3}.'
    return None


def check_pw_frames(frames: Configurations, system: Mapping[str, Any], valences: Mapping[str, float]) -> list[str]:
    """Return why some of ``frames`` cannot be labelled, each with the mend.

    :param system: the SYSTEM namelist that all frames share.
    :param valences: valence electrons by element that has a pseudopotential.
    """
    missing = [element for element in frames.elements if element not in valences]
    if missing:
        return [
            f'no pseudopotential for {", ".join(missing)}: the inputs have {", ".join(sorted(valences))}. Choose a '
            'family that has all elements (`pseudo_family`), or add to `pseudos`.'
        ]
    return frame_problems(
        frames,
        _box_problem,
        partial(_charge_problem, system=system),
        partial(_moment_problem, system=system, valences=valences),
    )


def _box_problem(frames: Configurations, index: int) -> str:
    """pw.x repeats every cell: along a direction that is not periodic there must be vacuum."""
    cell, open_directions = frames.cell[index], np.flatnonzero(~frames.pbc[index])
    if not len(open_directions):
        return ''
    mend = 'give it a box with more vacuum (in ASE `atoms.center(vacuum=6)`), or make it periodic (`atoms.pbc = True`).'
    if abs(np.linalg.det(cell)) < 1e-6:
        return f'is not periodic and has no box, but pw.x is set up for cells: {mend}'
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    positions = frames.positions[frames.offsets[index] : frames.offsets[index + 1]]
    extents = np.ptp(positions @ np.linalg.inv(cell), axis=0) * heights
    for direction in open_directions:
        vacuum = heights[direction] - extents[direction]
        if vacuum < _LEAST_VACUUM:
            return (
                f'is not periodic along {"abc"[direction]}, where only {vacuum:.1f} Å of vacuum separate it from its '
                f'image, expected {_LEAST_VACUUM:g} Å or more, because pw.x repeats every cell: {mend}'
            )
    return ''


def _charge_problem(frames: Configurations, index: int, system: Mapping[str, Any]) -> str:
    """pw.x silently neutralises a charged cell with a uniform background, whose energy depends on the box."""
    charge, stated = int(frames.charge[index]), system.get('tot_charge')
    if stated is not None and float(stated) != charge:
        return (
            f'has charge {charge:+d}, but `SYSTEM: {{tot_charge: {stated}}}` is meant for all frames: give the frames '
            'that `charge`, or remove `tot_charge`.'
        )
    if charge and stated is None and system.get('assume_isolated', 'none') == 'none':
        return (
            f'has charge {charge:+d}, which pw.x would neutralise by a uniform background without saying so: for a '
            'molecule or slab set `SYSTEM: {assume_isolated: ...}` (makov-payne, martyna-tuckerman, esm, 2D); if the '
            f'background is meant, state `SYSTEM: {{tot_charge: {charge}}}`: it becomes part of the level of theory.'
        )
    return ''


def _moment_problem(
    frames: Configurations, index: int, system: Mapping[str, Any], valences: Mapping[str, float]
) -> str:
    """Moments and the number of spin channels must agree, or frames would mix two treatments of spin."""
    _, kinds = frame_kinds(frames, index)
    magnetic = {kind: (symbol, moment) for kind, (symbol, moment) in kinds.items() if moment}
    nspin, open_spin = system.get('nspin', 1), frames.multiplicity[index] == 0
    if magnetic and nspin != 2 and open_spin:
        return (
            f'has initial moments, but the inputs have `nspin: {nspin}`: set `SYSTEM: {{nspin: 2}}`, or remove '
            'the moments.'
        )
    if not magnetic and nspin == 2 and open_spin and not system.get('starting_magnetization'):
        return (
            'has no initial moments, so that `nspin: 2` would find the non-magnetic state: set `initial_moments` of '
            'the seeds, for example {Fe: 2.2}, or `SYSTEM: {starting_magnetization: {Fe: 0.3}}`.'
        )
    for symbol, moment in magnetic.values():
        if abs(moment) > valences[symbol]:
            return (
                f'has an initial moment of {moment:g} µB on {symbol}, more than its {valences[symbol]:g} valence '
                'electrons; moments are in µB per atom.'
            )
    most = Counter(symbol for symbol, _ in kinds.values()).most_common(1)[0][1]
    if len(kinds) > _MOST_KINDS or most > 9:
        return (
            f'has {len(kinds)} kinds of atoms by element and initial moment, pw.x knows {_MOST_KINDS} (9 of an '
            'element): give equal atoms equal moments.'
        )
    return ''
