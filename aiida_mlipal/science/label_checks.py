"""What must hold before a label is believed. Thresholds are settings; each rejection is a row with its reason.

Labels are kept as the code computed them and judged when they are put together, all of one set at once. A label that
one campaign rejects is therefore still there for another with other thresholds, and nobody pays for it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.settings import check_number

__all__ = ('LabelChecks', 'check_labels', 'failed_share')

#: A median over fewer frames says nothing.
_FEWEST: Final = 4
#: Smallest relative spread of volumes over which the sign of the stress can be judged.
_VOLUME_SPREAD: Final = 0.03


@dataclass(frozen=True, kw_only=True)
class LabelChecks:
    """Thresholds above which a label is rejected, and the share of rejections at which labelling counts as failed."""

    max_force: float = 100.0  #: eV/Å, largest force on an atom
    max_scf_force_error: float = 0.05  #: eV/Å, correction of the forces for an SCF that has not quite converged
    #: eV/Å, sum of all forces over the square root of the number of atoms: the error of the force on an atom that it
    #: betrays, if the errors are independent; the forces of a grid code do not add up to zero
    max_net_force: float = 0.5
    max_magnetization_jump: float = 1.0  #: µB per atom, from the median of frames of equal composition and moments
    max_energy_deviation: float = 1.0  #: eV per atom, from the committee, beyond the median deviation of the set
    max_failed_share: float = 0.5  #: of the frames that are not isolated atoms
    require_stress: bool = True  #: of frames periodic in three directions; isolated atoms need none

    def __post_init__(self) -> None:
        for name in (
            'max_force', 'max_scf_force_error', 'max_net_force', 'max_magnetization_jump', 'max_energy_deviation',
        ):  # fmt: skip
            check_number(name, getattr(self, name), above=0.0)
        check_number('max_failed_share', self.max_failed_share, within=(0.0, 1.0))
        if not isinstance(self.require_stress, bool):
            raise ValueError(f'`require_stress` must be true or false, got {self.require_stress!r}.')


def check_labels(
    frames: Configurations, checks: LabelChecks, expected: Mapping[str, float] | None = None
) -> Configurations:
    """Return ``frames`` with every label that does not pass turned into a rejected row without values.

    :param expected: total energy (eV) that a committee predicts, by ``frame_id``; frames without one are not compared.
    """
    reasons = [_own_reason(frames, index, checks) for index in range(len(frames))]
    for found in (
        _magnetization_jumps(frames, checks.max_magnetization_jump),
        _energy_outliers(frames, checks.max_energy_deviation, expected or {}),
        _wrong_stress_signs(frames),
    ):
        for index, reason in found.items():
            reasons[index] = reasons[index] or reason
    bad = frames.is_labelled & np.array([bool(reason) for reason in reasons], dtype=bool)
    if not bad.any():
        return frames
    blank = {name: np.array(getattr(frames, name)) for name in ('energy', 'stress', 'magnetization')}
    for column in blank.values():
        column[bad] = np.nan
    forces = np.array(frames.forces)
    forces[bad[frames.atom_frame]] = np.nan
    return frames.with_columns(
        **blank,
        forces=forces,
        status=np.where(bad, 'rejected', frames.status),
        reason=[reasons[i] if bad[i] else old for i, old in enumerate(frames.reason.tolist())],
    )


def failed_share(frames: Configurations) -> float:
    """Return the share of rejected frames among those that are not isolated atoms; 0 if there are none."""
    asked = ~frames.has_role('isolated_atom')
    return float((frames.status[asked] == 'rejected').mean()) if asked.any() else 0.0


def _own_reason(frames: Configurations, index: int, checks: LabelChecks) -> str:
    """Return what is wrong with one label by itself, or an empty string."""
    forces = frames.forces[frames.offsets[index] : frames.offsets[index + 1]]
    if not np.isfinite(frames.energy[index]):
        return 'the energy is missing or not a finite number'
    if not np.isfinite(forces).all():
        return 'forces are missing or not finite'
    periodic = frames.pbc[index].all() and frames.role[index] != 'isolated_atom'
    if checks.require_stress and periodic and not np.isfinite(frames.stress[index]).all():
        return 'the stress is missing or not finite'
    error = float(frames.scf_force_error[index])
    if error > checks.max_scf_force_error:
        return (
            f'the SCF correction of the forces, {error:.3f} eV/Å, is above {checks.max_scf_force_error:g} eV/Å: '
            'converge the SCF further'
        )
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > checks.max_force:
        return f'the largest force, {largest:.1f} eV/Å, is above {checks.max_force:g} eV/Å'
    net = float(np.linalg.norm(forces.sum(axis=0)) / np.sqrt(len(forces)))
    if net > checks.max_net_force and frames.role[index] != 'isolated_atom':
        return (
            f'the sum of the forces over the square root of the number of atoms, {net:.2f} eV/Å, is above '
            f'{checks.max_net_force:g} eV/Å: use a finer grid'
        )
    return ''


def _groups(frames: Configurations, *, by_moments: bool) -> list[NDArray[np.int64]]:
    """Return rows of labelled frames of equal composition, and if asked, of equal initial moments."""
    groups: dict[tuple[object, ...], list[int]] = {}
    usable = frames.is_labelled & ~frames.has_role('isolated_atom')
    offsets = frames.offsets
    for index in np.flatnonzero(usable):
        atoms = slice(offsets[index], offsets[index + 1])
        key: tuple[object, ...] = (tuple(sorted(frames.numbers[atoms].tolist())), tuple(frames.pbc[index].tolist()))
        if by_moments:
            key += (tuple(frames.initial_moments[atoms].tolist()), int(frames.multiplicity[index]))
        groups.setdefault(key, []).append(int(index))
    return [np.array(rows) for rows in groups.values() if len(rows) >= _FEWEST]


def _magnetization_jumps(frames: Configurations, limit: float) -> dict[int, str]:
    """Return frames that fell into another magnetic state than most of their kind."""
    found = {}
    for rows in _groups(frames, by_moments=True):
        moments = np.abs(frames.magnetization[rows]) / frames.n_atoms[rows]
        if not np.isfinite(moments).any():
            continue
        usual = float(np.nanmedian(moments))
        for row, moment in zip(rows.tolist(), moments.tolist(), strict=True):
            if abs(moment - usual) > limit:
                found[row] = f'the magnetization jumped: {moment:.2f} µB per atom, where {usual:.2f} is usual'
    return found


def _energy_outliers(frames: Configurations, limit: float, expected: Mapping[str, float]) -> dict[int, str]:
    """Return frames whose energy is far from what the committee says, common shift removed."""
    rows = [i for i in np.flatnonzero(frames.is_labelled).tolist() if str(frames.frame_id[i]) in expected]
    if len(rows) < _FEWEST:
        return {}
    deviations = np.array([frames.energy[i] - expected[str(frames.frame_id[i])] for i in rows]) / frames.n_atoms[rows]
    deviations -= np.median(deviations)
    return {
        row: f'the energy is {deviation:+.2f} eV per atom off what the committee says, beyond {limit:g}'
        for row, deviation in zip(rows, deviations.tolist(), strict=True)
        if abs(deviation) > limit
    }


def _wrong_stress_signs(frames: Configurations) -> dict[int, str]:
    """Return all frames of a kind whose stress falls with the volume: tension must grow when a crystal is stretched.

    This finds a code, or a version of it, whose sign is not the one its engine believes, not a single bad label.
    """
    found: dict[int, str] = {}
    for rows in _groups(frames, by_moments=False):
        rows = rows[np.isfinite(frames.stress[rows]).all(axis=1)]
        volumes = np.abs(np.linalg.det(frames.cell[rows]))
        if len(rows) < _FEWEST or np.ptp(volumes) < _VOLUME_SPREAD * volumes.mean():
            continue
        tension = frames.stress[rows, :3].mean(axis=1)
        correlation = float(np.corrcoef(volumes, tension)[0, 1]) if np.ptp(tension) > 0 else 0.0
        if correlation < -0.9:
            reason = (
                f'the stress has the wrong sign: it falls when the cell grows (correlation {correlation:.2f} over '
                f'{len(rows)} frames), positive must mean tension'
            )
            found.update(dict.fromkeys(rows.tolist(), reason))
    return found
