"""Plan ``adversarial``: displace atoms so that the uncertainty of their forces grows, under a Boltzmann weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from ase import units

from aiida_mlipal.runners.bounds import NOT_FINITE, can_be_labelled, out_of_bounds
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.last_layer import ATTRIBUTE, features
from aiida_mlipal.runners.relax import batches
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Frame, Replica, Trajectory, replicas_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_adversarial import AdversarialPlan

__all__ = ('Likelihood', 'run')

#: Of Adam (Kingma and Ba, arXiv:1412.6980).
_DECAY: tuple[float, float] = (0.9, 0.999)
_TINY = 1e-12


class Likelihood:
    """log(variance) - E / kT of each system, and its gradient.

    :param temperature: K.
    :raises ValueError: for one model that carries no uncertainty.
    """

    def __init__(self, mace: MaceForces, temperature: float) -> None:
        self.mace, self._kt = mace, units.kB * temperature
        if len(mace.models) == 1 and getattr(mace.models[0], ATTRIBUTE, None) is None:
            raise ValueError(
                'adversarial displacement needs an uncertainty, but the model has one member and no uncertainty of its '
                'last layer: train an ensemble, or with `uncertainty: llpr` or `heads`.'
            )

    def __call__(self, systems: Systems) -> tuple[Any, Any, Any, Any]:
        """Return the objective ``(S,)``, its gradient ``(A, 3)`` in 1/Å, variance ``(S,)`` and forces ``(A, 3)``.

        The variance is that of a component of the forces, averaged over the atoms, (eV/Å)²; the forces are those of
        the mean of all members.
        """
        import torch

        graph = self.mace.graph(systems)
        graph['positions'].requires_grad_(True)
        variances, energies, forces = self._committee(graph) if len(self.mace.models) > 1 else self._last_layer(graph)
        n_atoms = systems.tensor(systems.sizes).double()
        variance = systems.per_system(variances.double(), 'sum') / n_atoms
        objective = torch.log(variance + _TINY)
        (gradient,) = torch.autograd.grad(objective.sum(), graph['positions'])
        energy = systems.per_system(energies.detach().double(), 'sum')
        forces = forces.detach().double()
        return objective.detach() - energy / self._kt, gradient.double() + forces / self._kt, variance.detach(), forces

    def _committee(self, graph: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return variances, energies and forces per atom; the first can be differentiated."""
        import torch

        outputs = [model(dict(graph), training=True) for model in self.mace.models]
        forces = torch.stack([output['forces'] for output in outputs])
        energies = torch.stack([output['node_energy'] for output in outputs])
        return forces.var(dim=0, correction=1).mean(dim=1), energies.mean(dim=0), forces.mean(dim=0)

    def _last_layer(self, graph: dict[str, Any]) -> tuple[Any, Any, Any]:
        import torch

        model = self.mace.models[0]
        carried = getattr(model, ATTRIBUTE)
        values, positions = features(model, graph, carried['widths'])
        directions = torch.as_tensor(carried['forces'], dtype=values.dtype, device=values.device)
        rows = [
            torch.autograd.grad(total, positions, create_graph=True)[0] for total in (values @ directions.T).sum(dim=0)
        ]
        output = model(dict(graph))
        return (torch.stack(rows) ** 2).sum(dim=(0, 2)) / 3, output['node_energy'], output['forces']


class _Climbing(Systems):
    """Systems with the moments of Adam."""

    ATOMIC: ClassVar[tuple[str, ...]] = (*Systems.ATOMIC, 'mean', 'square')

    mean: Any  #: ``(A, 3)``, of the gradient
    square: Any  #: ``(A, 3)``

    def rows(self, replicas: Sequence[Replica]) -> dict[str, Any]:
        """See :meth:`Systems.rows`."""
        rows = super().rows(replicas)
        return {**rows, **{name: self.tensor(np.zeros(rows['positions'].shape)) for name in ('mean', 'square')}}

    def climb(self, gradient: Any, step: int, step_size: float) -> None:
        """Go step number ``step``, counted from 1, along ``gradient``."""
        first, second = _DECAY
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient**2
        mean, square = self.mean / (1 - first**step), self.square / (1 - second**step)
        self.positions = self.positions + step_size * mean / (square.sqrt() + _TINY)


def _attack(
    replicas: Sequence[Replica], likelihood: Likelihood, plan: AdversarialPlan, settings: ExplorationSettings
) -> list[Trajectory]:
    """Displace the replicas of one batch."""
    key = [settings.seed, settings.iteration]
    moved = [
        replace(one, positions=one.positions + plan.displacement * np.random.default_rng([*key, one.index])
                .standard_normal(one.positions.shape))
        for one in replicas
    ]  # fmt: skip
    here = [Trajectory(replica=replica) for replica in replicas]
    done = list(here)
    systems = _Climbing(moved, likelihood.mace.device)
    for step in range(plan.n_moves + 1):
        _, gradient, variance, forces = likelihood(systems)
        largest = systems.per_system(forces.norm(dim=1), 'amax').tolist()
        wanted = step % plan.save_every == 0 or step == plan.n_moves
        split = systems.split(systems.positions)
        going_on = []
        for place, trajectory in enumerate(here):
            trajectory.n_steps = step
            if not np.isfinite(largest[place]):
                trajectory.reason = NOT_FINITE
                continue
            if wanted:
                _look(trajectory, split[place], largest[place], float(variance[place]) ** 0.5, settings)
            if not trajectory.reason:
                going_on.append(place)
        if not going_on or step == plan.n_moves:
            break
        if len(going_on) < len(here):
            mask = np.isin(np.repeat(np.arange(len(here)), systems.sizes), going_on)
            gradient, here = gradient[systems.tensor(mask)], [here[place] for place in going_on]
            systems.keep(going_on)
        systems.climb(gradient, step + 1, plan.step_size)
    return done


def _look(trajectory: Trajectory, positions: Any, largest: float, spread: float, settings: ExplorationSettings) -> None:
    """Keep the frame of one replica, or end it out of bounds. The displaced start is not kept."""
    replica, step = trajectory.replica, trajectory.n_steps
    frame = Frame(step=step, positions=positions, cell=replica.cell)
    reason = out_of_bounds(replica, frame, largest, float('nan'), settings)
    if reason:
        trajectory.reason = reason
        trajectory.unsafe = frame if can_be_labelled(replica, frame, settings) else None
        return
    trajectory.found = {'spread_before': spread, **trajectory.found, 'spread_after': spread}
    if step:
        trajectory.frames.append(frame)


def run(
    plan: AdversarialPlan,
    starts: Configurations,
    models: Sequence[Any],
    settings: ExplorationSettings,
    first: int,
    keeper: Keeper,
) -> list[Trajectory]:
    """Displace with all members; ``found`` tells by how much the spread of a force component grew, eV/Å."""
    likelihood = Likelihood(MaceForces(models), plan.temperature)
    replicas = replicas_at(starts, first, [plan.temperature] * plan.n_attacks)
    return [
        trajectory
        for batch in batches(replicas, settings.atoms_per_batch)
        for trajectory in _attack(batch, likelihood, plan, settings)
    ]
