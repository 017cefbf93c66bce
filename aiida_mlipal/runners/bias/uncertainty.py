"""Forces that pull to where the model is unsure, and how strongly (see the plan for the sources)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.forces import MaceForces, Prediction
from aiida_mlipal.runners.last_layer import ATTRIBUTE, features
from aiida_mlipal.runners.motion.moving import Moving
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.science.plan_uncertainty import UncertaintyPlan

__all__ = ('UncertaintyBias',)

#: eV; keeps the derivative of the standard deviation finite where all members agree.
_LEAST: Final = 1e-6


class UncertaintyBias:
    """Mean energy and forces of the committee, less a multiple of a measure of its uncertainty.

    One model moves the replicas by itself; its uncertainty is that of its last layer.

    :raises ValueError: for one model that carries no uncertainty.
    """

    def __init__(self, forces: MaceForces, plan: UncertaintyPlan) -> None:
        self._mace, self._plan = forces, plan
        self.device = forces.device
        self._averages: dict[int, tuple[float, float]] = {}  # of both root mean squares below, by replica
        self._latest: dict[int, tuple[float, float]] = {}
        if len(forces.models) == 1 and getattr(forces.models[0], ATTRIBUTE, None) is None:
            raise ValueError(
                f'plan `{plan.label}` needs an uncertainty, but the model has one member and no uncertainty of its '
                'last layer: train an ensemble, or with `uncertainty: llpr` or `heads`.'
            )

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        """See :class:`aiida_mlipal.runners.forces.Forces`; there is no stress."""
        import torch

        assert not stress, 'the bias moves atoms, not cells'
        energies, forces, measure, gradient = self.measure(systems)
        n_components = 3 * systems.tensor(systems.sizes)
        physical, pull = (
            (systems.per_system((x**2).sum(dim=1), 'sum') / n_components).sqrt() for x in (forces, gradient)
        )
        self._latest = {
            replica.index: (first, second)
            for replica, first, second in zip(systems.replicas, physical.tolist(), pull.tolist(), strict=True)
        }
        strengths = self._strengths(systems)
        bound = self._plan.max_strength * physical / pull.clamp(min=torch.finfo(pull.dtype).tiny)
        strengths = torch.minimum(strengths, bound)
        return Prediction(energies - strengths * measure, forces + strengths[systems.system, None] * gradient)

    def adapt(self, batch: Moving) -> None:
        """Set the strengths by the forces that act now, and let them act."""
        weight = 1 / self._plan.memory
        for replica in batch.replicas:
            physical, pull = self._latest[replica.index]
            before, before_pull = self._averages.get(replica.index, (physical, pull))
            self._averages[replica.index] = (
                (1 - weight) * before + weight * physical,
                (1 - weight) * before_pull + weight * pull,
            )
        batch.evaluate()

    def state(self, systems: Systems) -> dict[str, NDArray[Any]]:
        """See :class:`aiida_mlipal.runners.forces.Forces`."""
        return {
            **self._mace.state(systems),
            'pulled': np.array(list(self._averages), dtype=np.int64),
            'averages': np.array(list(self._averages.values()), dtype=np.float64).reshape(-1, 2),
        }

    def restore(self, systems: Systems, state: dict[str, NDArray[Any]]) -> None:
        """See :class:`aiida_mlipal.runners.forces.Forces`."""
        self._mace.restore(systems, state)
        pairs = zip(state['pulled'].tolist(), state['averages'].tolist(), strict=True)
        self._averages = {index: (physical, pull) for index, (physical, pull) in pairs}

    def strength(self, index: int) -> float:
        """Return by what the uncertainty of a replica is multiplied now."""
        physical, pull = self._averages.get(index, (0.0, 1.0))
        return self._plan.strength * physical / pull if pull > 0 else 0.0

    def _strengths(self, systems: Systems) -> Any:
        return systems.tensor([self.strength(replica.index) for replica in systems.replicas]).double()

    def measure(self, systems: Systems) -> tuple[Any, Any, Any, Any]:
        """Return mean energies ``(S,)`` and forces ``(A, 3)``, the measure ``(S,)`` and its gradient ``(A, 3)``."""
        import torch

        energies, forces, variance, gradient = (
            self._committee(systems) if len(self._mace.models) > 1 else self._last_layer(systems)
        )
        if self._plan.form == 'linear':
            measure = (variance + _LEAST**2).sqrt()
            slope = 0.5 / measure
        else:
            width = systems.tensor(systems.sizes).double() * self._plan.scale**2
            measure = 1 - torch.exp(-variance / width)
            slope = torch.exp(-variance / width) / width
        return energies, forces, measure, slope[systems.system, None] * gradient

    def _committee(self, systems: Systems) -> tuple[Any, Any, Any, Any]:
        """Return the means, and the variance of the energy with its gradient, both from first derivatives alone."""
        import torch

        graph = self._mace.graph(systems)
        outputs = [model(dict(graph)) for model in self._mace.models]
        energies = torch.stack([systems.per_system(x['node_energy'].detach().double(), 'sum') for x in outputs])
        forces = torch.stack([x['forces'].detach().double() for x in outputs])
        deviations = energies - energies.mean(dim=0)
        n_others = len(outputs) - 1
        variance = (deviations**2).sum(dim=0) / n_others
        gradient = -2 / n_others * (deviations[:, systems.system, None] * forces).sum(dim=0)
        return energies.mean(dim=0), forces.mean(dim=0), variance, gradient

    def _last_layer(self, systems: Systems) -> tuple[Any, Any, Any, Any]:
        import torch

        energies, forces, _ = self._mace(systems)
        model = self._mace.models[0]
        carried = getattr(model, ATTRIBUTE)
        values, positions = features(model, self._mace.graph(systems), carried['widths'])
        totals = values.new_zeros((len(systems.replicas), values.shape[1])).index_add(0, systems.system, values)
        rows = totals.double() @ systems.tensor(carried['energy']).double().T
        variance = (rows**2).sum(dim=1)
        (gradient,) = torch.autograd.grad(variance.sum(), positions)
        return energies, forces, variance.detach(), gradient.double()
