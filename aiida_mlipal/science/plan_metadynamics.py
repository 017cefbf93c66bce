"""Plan ``metadynamics``: dynamics that fill the free energy along chosen variables with hills.

Well-tempered metadynamics: Barducci, Bussi and Parrinello, Phys. Rev. Lett. 100, 020603 (2008). Every ``stride`` steps
a Gaussian is added to the bias at the present value of the variables, the lower the higher the bias there already is:
height exp(-V(s) / (k_B (bias_factor - 1) T)). The bias converges to -(1 - 1 / bias_factor) times the free energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.collective_variables import CollectiveVariable, read_variables
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_plans import DynamicsSettings, Plan
from aiida_mlipal.science.settings import check_number

__all__ = ('MetadynamicsPlan', 'free_energy')


@dataclass(frozen=True, kw_only=True)
class MetadynamicsPlan(DynamicsSettings, Plan):
    """Well-tempered metadynamics: a hill every ``stride`` steps, each replica with hills of its own."""

    KIND: ClassVar[str] = 'metadynamics'

    variables: Sequence[Mapping[str, Any]]  #: collective variables, see below
    height: float = 0.05  #: of the first hill, eV
    bias_factor: float = 10.0  #: by which the barriers become lower; above 1

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        DynamicsSettings.__post_init__(self)
        check_number('height', self.height, above=0)
        check_number('bias_factor', self.bias_factor, above=1)
        self.read_variables()

    def read_variables(self) -> list[CollectiveVariable]:
        """Return the variables, checked."""
        return read_variables(self.variables)

    def check_starts(self, starts: Configurations) -> None:
        """Refuse starts that lack an atom of a variable.

        :raises ValueError: naming the variable and the start.
        """
        for variable in self.read_variables():
            for row, n_atoms in enumerate(starts.n_atoms.tolist()):
                atoms = starts.numbers[starts.offsets[row] : starts.offsets[row + 1]]
                problem = variable.problem_with(atoms)
                if problem:
                    raise ValueError(
                        f'plan `{self.label}`: start {starts.frame_id[row]} of {n_atoms} atoms has {problem}, which '
                        f'the variable `{variable.TYPE}` names. Indices count from 0; give another start or variable.'
                    )

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.replica_temperatures)


def free_energy(
    points: NDArray[np.float64],
    centres: NDArray[np.float64],
    heights: NDArray[np.float64],
    widths: NDArray[np.float64],
    *,
    bias_factor: float,
    periods: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the free energy that the hills tell at ``points`` in eV, its smallest value being zero.

    :param points: ``(P, D)`` values of the variables.
    :param centres: ``(H, D)`` centres of the hills.
    :param heights: ``(H,)`` eV, as they were deposited.
    :param widths: ``(D,)``.
    :param periods: ``(D,)``, 0 for variables that do not repeat.
    """
    distances = points[:, None, :] - centres[None, :, :]
    for column, period in enumerate(() if periods is None else periods.tolist()):
        if period:
            distances[:, :, column] -= period * np.round(distances[:, :, column] / period)
    bias = np.exp(-0.5 * np.sum((distances / widths) ** 2, axis=2)) @ heights
    energies: NDArray[np.float64] = -bias * bias_factor / (bias_factor - 1)
    energies -= energies.min()
    return energies
