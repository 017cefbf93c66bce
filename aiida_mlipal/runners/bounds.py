"""Bounds of an exploration: what a replica must not become, each way out of them named."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from aiida_mlipal.runners.trajectory import Frame, Replica
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.filters import too_close

__all__ = ('NOT_FINITE', 'can_be_labelled', 'hopeless_start', 'out_of_bounds')

NOT_FINITE: Final = 'a position or a force is not finite'
#: The first frame out of bounds is still worth a label unless atoms are closer than this part of the allowed distance.
_LOOSER: Final = 0.8
#: From 21 degrees of freedom (eight atoms) on, no thermal fluctuation reaches the bound on the temperature.
_QUIET_DOF: Final = 21
#: Atoms belong together in the start up to this multiple of the sum of their covalent radii: beyond every bond and the
#: neighbours in every metal, before the contacts of molecules ...
_BONDED: Final = 1.5
#: ... and are apart beyond this one: no vibration stretches a bond so far.
_APART: Final = 1.75
#: A cell has vaporised where more than this share of the atoms that had a neighbour have none within that distance.
_VAPOUR: Final = 0.5


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


def _pairs(
    replica: Replica, positions: NDArray[np.float64], cell: NDArray[np.float64], factor: float
) -> NDArray[np.int64]:
    """Return the pairs ``(2, P)`` of atoms closer than ``factor`` times the sum of their covalent radii."""
    from ase.geometry import complete_cell
    from matscipy.neighbours import neighbour_list

    radii = factor * covalent_radii[replica.numbers]
    cutoff = 2 * float(radii.max())
    box = complete_cell(cell)
    first, second, distances = neighbour_list('ijd', positions=positions, cell=box, pbc=replica.pbc, cutoff=cutoff)
    near = distances < radii[first] + radii[second]
    return np.array([first[near], second[near]], dtype=np.int64)


def _groups(pairs: NDArray[np.int64], n_atoms: int) -> NDArray[np.int64]:
    """Return the number of the connected group of each atom."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(n_atoms, n_atoms))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return groups


@lru_cache(maxsize=4096)
def _bonds_of(replica: Replica) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the molecule of each atom in the start, and its number of neighbours there."""
    pairs = _pairs(replica, replica.positions, replica.cell, _BONDED)
    n_atoms = len(replica.numbers)
    return _groups(pairs, n_atoms), np.bincount(pairs[0], minlength=n_atoms)


def _came_apart(replica: Replica, frame: Frame) -> str:
    """Return which molecule broke, or that the cell vaporised, or an empty string.

    A molecule is what was bonded in the start, where that was several groups, or where nothing was periodic.
    """
    groups, n_neighbours = _bonds_of(replica)
    had = n_neighbours > 0
    if not had.any():
        return ''
    pairs = _pairs(replica, frame.positions, frame.cell, _APART)
    n_atoms = len(replica.numbers)
    alone = had & (np.bincount(pairs[0], minlength=n_atoms) == 0)
    is_molecular = groups.max() > 0 or not replica.pbc.any()
    if not is_molecular:
        share = alone.sum() / had.sum()
        return f'the cell vaporised: {share:.0%} of the atoms have lost all neighbours' if share > _VAPOUR else ''
    inside = pairs[:, groups[pairs[0]] == groups[pairs[1]]]
    now = _groups(inside, n_atoms)
    n_pieces = np.array([len(set(now[groups == group].tolist())) for group in np.unique(groups)])
    if (n_pieces == 1).all():
        return ''
    broken = int(np.argmax(n_pieces > 1))
    first = int(np.flatnonzero(groups == broken)[0])
    return f'a molecule broke: that of atom {first} is in {n_pieces[broken]} pieces'


def _cell_changed(replica: Replica, frame: Frame, settings: ExplorationSettings) -> str:
    """Return whether the cell collapsed or blew up, or an empty string."""
    if np.array_equal(frame.cell, replica.cell) or not replica.pbc.all():
        return ''
    ratio = abs(float(np.linalg.det(frame.cell) / np.linalg.det(replica.cell)))
    if ratio < settings.min_volume_factor:
        return f'the cell collapsed to {ratio:.2f} of its volume, below `min_volume_factor`'
    if ratio > settings.max_volume_factor:
        return f'the cell vaporised: {ratio:.2f} times its volume is above `max_volume_factor`'
    return ''


def can_be_labelled(replica: Replica, frame: Frame, settings: ExplorationSettings) -> bool:
    """Return whether a frame out of bounds is still worth a label."""
    finite = np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()
    return (
        bool(finite)
        and not _cell_changed(replica, frame, settings)
        and not _close(replica, frame, _LOOSER * settings.min_distance_factor)
    )


def hopeless_start(replica: Replica, settings: ExplorationSettings) -> str:
    """Return why a replica cannot begin, or an empty string."""
    if not (np.isfinite(replica.positions).all() and np.isfinite(replica.cell).all()):
        return NOT_FINITE
    start = Frame(step=0, positions=replica.positions, cell=replica.cell)
    close = _close(replica, start, _LOOSER * settings.min_distance_factor)
    return f'the start overlaps: {close}' if close else ''


def out_of_bounds(
    replica: Replica,
    frame: Frame,
    max_force: float,
    temperature: float,
    settings: ExplorationSettings,
    *,
    uncertainty: float = float('nan'),
    bonds_hold: bool = True,
) -> str:
    """Return why a frame is out of bounds, or an empty string.

    :param max_force: largest force on an atom, eV/Å.
    :param temperature: kinetic, K; NaN where nothing moves.
    :param uncertainty: largest of an atom, eV/Å; NaN where nobody looked.
    :param bonds_hold: whether molecules of the start have to stay whole.
    """
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all() and np.isfinite(max_force)):
        return NOT_FINITE
    changed = _cell_changed(replica, frame, settings)
    if changed:
        return changed
    if max_force > settings.max_force:
        return f'a force of {max_force:.1f} eV/Å is above `max_force` ({settings.max_force:g} eV/Å)'
    # The relative fluctuation of the temperature is sqrt(2 / degrees of freedom).
    dof = max(3 * len(frame.positions) - 3, 1)
    target = replica.temperature if np.isnan(frame.temperature) else frame.temperature
    limit = settings.max_temperature_factor * target * max(1.0, np.sqrt(_QUIET_DOF / dof))
    if temperature > limit:
        return f'the temperature of {temperature:.0f} K is above {limit:.0f} K, set by `max_temperature_factor`'
    close = _close(replica, frame, settings.min_distance_factor)
    if close:
        return f'{close} (`min_distance_factor`)'
    apart = _came_apart(replica, frame) if bonds_hold else ''
    if apart:
        return apart
    if settings.max_uncertainty is not None and uncertainty > settings.max_uncertainty:
        return f'an uncertainty of {uncertainty:.3g} eV/Å is above `max_uncertainty` ({settings.max_uncertainty:.3g})'
    return ''
