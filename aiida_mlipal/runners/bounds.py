"""Bounds of an exploration: what a replica must not become, each way out of them named."""

from __future__ import annotations

from typing import Final

import numpy as np
from ase.data import covalent_radii

from aiida_mlipal.runners.trajectory import Frame, Replica
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.filters import too_close

__all__ = ('NOT_FINITE', 'can_be_labelled', 'out_of_bounds')

NOT_FINITE: Final = 'a position or a force is not finite'
#: The first frame out of bounds is still worth a label unless atoms are closer than this part of the allowed distance.
_LOOSER: Final = 0.8
#: From 21 degrees of freedom (eight atoms) on, no thermal fluctuation reaches the bound on the temperature.
_QUIET_DOF: Final = 21


def _close(replica: Replica, frame: Frame, factor: float) -> str:
    """Return which atoms are too close, or an empty string; mostly by a fast search that only says that none are."""
    from matscipy.neighbours import neighbour_list

    cutoff = 2 * factor * float(covalent_radii[replica.numbers].max())
    cell = frame.cell if np.abs(np.linalg.det(frame.cell)) > 0 else None
    if cell is not None or not replica.pbc.any():
        pairs = neighbour_list('i', positions=frame.positions, cell=cell, pbc=replica.pbc, cutoff=cutoff)
        if not len(pairs):
            return ''
    return too_close(replica.numbers, frame.positions, frame.cell, replica.pbc, factor)


def can_be_labelled(replica: Replica, frame: Frame, settings: ExplorationSettings) -> bool:
    """Return whether a frame out of bounds is still worth a label."""
    finite = np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()
    return bool(finite) and not _close(replica, frame, _LOOSER * settings.min_distance_factor)


def out_of_bounds(
    replica: Replica, frame: Frame, max_force: float, temperature: float, settings: ExplorationSettings
) -> str:
    """Return why a frame is out of bounds, or an empty string.

    :param max_force: largest force on an atom, eV/Å.
    :param temperature: kinetic, K; NaN where nothing moves.
    """
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all() and np.isfinite(max_force)):
        return NOT_FINITE
    if max_force > settings.max_force:
        return f'a force of {max_force:.1f} eV/Å is above `max_force` ({settings.max_force:g} eV/Å)'
    # The relative fluctuation of the temperature is sqrt(2 / degrees of freedom).
    dof = max(3 * len(frame.positions) - 3, 1)
    limit = settings.max_temperature_factor * replica.temperature * max(1.0, np.sqrt(_QUIET_DOF / dof))
    if temperature > limit:
        return f'the temperature of {temperature:.0f} K is above {limit:.0f} K, set by `max_temperature_factor`'
    close = _close(replica, frame, settings.min_distance_factor)
    return f'{close} (`min_distance_factor`)' if close else ''
