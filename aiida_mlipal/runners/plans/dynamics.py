"""Plan ``dynamics``: molecular dynamics of many replicas, from which the random stream is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from ase import units

from aiida_mlipal.runners.forces import Forces, MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.motion.barostat import Barostat
from aiida_mlipal.runners.motion.moving import Langevin, Moving, VelocityVerlet
from aiida_mlipal.runners.motion.nose_hoover import NoseHoover
from aiida_mlipal.runners.motion.propagate import propagate
from aiida_mlipal.runners.trajectory import Replica, Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_plans import STRAINS, DynamicsPlan, DynamicsSettings
from aiida_mlipal.science.exploration_settings import ExplorationSettings

__all__ = ('in_bath', 'langevin', 'mover', 'run')

Mover = Callable[[Sequence[Replica]], Moving]


def langevin(plan: DynamicsSettings, forces: Forces, settings: ExplorationSettings) -> Mover:
    """Return what makes a batch out of replicas that moves in a Langevin bath."""
    return partial(Langevin, forces=forces, **_common(plan, settings))


def _common(plan: DynamicsSettings, settings: ExplorationSettings) -> dict[str, Any]:
    return {
        'time_step': plan.time_step,
        'friction': plan.friction,
        'key': [settings.seed, settings.iteration],
    }


def mover(plan: DynamicsPlan, forces: Forces, settings: ExplorationSettings) -> Mover:
    """Return what makes a batch out of replicas that moves in the ensemble of the plan."""
    common = _common(plan, settings)
    if plan.has_barostat:
        return partial(
            Barostat,
            forces=forces,
            full_cell=plan.ensemble == 'npt_full_cell',
            barostat_time=plan.barostat_time,
            compressibility=plan.compressibility,
            **common,
        )
    kinds: dict[str, Callable[..., Moving]] = {'nve': VelocityVerlet, 'nvt': Langevin, 'nvt_nose_hoover': NoseHoover}
    return partial(kinds[plan.ensemble], forces=forces, strain=_strain_of_a_step(plan), **common)


def _strain_of_a_step(plan: DynamicsPlan) -> Any:
    """Return the logarithmic strain of one step, ``(3, 3)``, None if there is none."""
    if not plan.strain_rates:
        return None
    rates = np.zeros((3, 3))
    for name, value in plan.strain_rates.items():
        row, column = STRAINS[name]
        # A shear strain is half in either place, as in ASE's Voigt convention.
        rates[row, column] += value / 2
        rates[column, row] += value / 2
    return rates * 1e-3 * plan.time_step


def _follow_ramp(plan: DynamicsPlan) -> Callable[[Moving], None] | None:
    """Return what sets the temperature of the bath to that of the ramp."""
    if not plan.ramp:
        return None
    steps, kelvin = np.array(plan.ramp, dtype=np.float64).T

    def follow(batch: Moving) -> None:
        batch.targets = batch.tensor(np.interp(batch.steps.cpu().numpy(), steps, kelvin))

    return follow


def in_bath(
    replicas: Sequence[Replica],
    acting: Forces,
    judge: MaceForces,
    plan: DynamicsSettings,
    settings: ExplorationSettings,
    **more: Any,
) -> list[Trajectory]:
    """Move replicas in a Langevin bath under the forces ``acting``, as long as ``judge`` does not doubt.

    :param more: see :func:`aiida_mlipal.runners.motion.propagate.propagate`.
    """
    return propagate(
        replicas,
        langevin(plan, acting, settings),
        plan,
        settings,
        max_atoms=settings.batch_atoms,
        doubt=_doubt(judge, settings),
        **more,
    )


def _doubt(forces: MaceForces, settings: ExplorationSettings) -> Callable[[Moving], Any] | None:
    """Return what tells the uncertainty of each system of a batch, None if nobody asks.

    :raises ValueError: for a model that has none.
    """
    if settings.max_uncertainty is None:
        return None
    if not forces.has_uncertainties:
        raise ValueError(
            '`max_uncertainty` is set, but a single model without an uncertainty never doubts: give a committee, train '
            'with `uncertainty: llpr` or `heads`, or take `max_uncertainty` out.'
        )
    return forces.uncertainties


def run(
    plan: DynamicsPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Move the replicas with the first member; ``first`` is the number of the first replica."""
    forces = MaceForces(models)
    temperatures, pressures = zip(*plan.conditions, strict=True)
    return propagate(
        replicas_at(starts, first, temperatures, [pressure * units.GPa for pressure in pressures]),
        mover(plan, forces, settings),
        plan,
        settings,
        max_atoms=settings.batch_atoms,
        keeper=keeper,
        doubt=_doubt(forces, settings),
        after_stride=_follow_ramp(plan),
    )
