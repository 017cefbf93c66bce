"""What an exploration cannot start from, told before anything is submitted."""

from __future__ import annotations

from typing import Final

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_plans import DynamicsPlan, DynamicsSettings
from aiida_mlipal.science.exploration_settings import ExplorationSettings

__all__ = ('longest_time_step', 'unfit_starts')

#: An eighth of the period of a stretching O-H bond (3500 /cm, 9.5 fs) for hydrogen, fs per square root of u.
_STEP_PER_ROOT_MASS: Final = 1.2


def longest_time_step(numbers: np.typing.NDArray[np.int64]) -> tuple[float, str]:
    """Return the longest time step in fs that resolves the vibrations of these atoms, and the lightest element.

    The period of a stiff bond goes with the square root of the lightest mass. Velocity Verlet is unstable from a third
    of a period on; at an eighth the energy is conserved well.
    """
    lightest = int(min(np.unique(numbers), key=lambda number: atomic_masses[number]))
    return float(_STEP_PER_ROOT_MASS * np.sqrt(atomic_masses[lightest])), chemical_symbols[lightest]


def unfit_starts(starts: Configurations, settings: ExplorationSettings) -> str | None:
    """Return why some plan cannot move the starts, and what to do, or ``None``."""
    if not len(starts):
        return None
    single = np.flatnonzero(starts.n_atoms < 2)
    if len(single):
        return (
            f'frame {starts.frame_id[single[0]]} has a single atom, which cannot move: give a conventional cell or a '
            'supercell.'
        )
    open_frames = np.flatnonzero(~starts.pbc.all(axis=1))
    for plan in settings.read_plans():
        if isinstance(plan, DynamicsSettings):
            longest, element = longest_time_step(starts.numbers)
            if plan.time_step > longest:
                return (
                    f'plan `{plan.label}`: `time_step` is {plan.time_step:g} fs, too long for {element}, the lightest '
                    f'element, whose bonds vibrate with a period of {8 * longest:.1f} fs: set at most {longest:.2g}.'
                )
        if isinstance(plan, DynamicsPlan) and plan.needs_cell and len(open_frames):
            what = f'the ensemble `{plan.ensemble}`' if plan.has_barostat else '`strain_rates`'
            return (
                f'plan `{plan.label}`: {what} needs a cell that is periodic in all directions, but frame '
                f'{starts.frame_id[open_frames[0]]} is not: set `ensemble: nvt` without `strain_rates`, or explore '
                'molecules and slabs in a campaign of their own.'
            )
    return None
