"""What a label engine is: the one place that knows how a code is fed and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from aiida import orm
from numpy.typing import NDArray

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations

__all__ = ('Inputs', 'LabelEngine', 'Task', 'failure_reason')

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One process that labels one frame, or a whole chunk: the inputs that are its own."""

    inputs: dict[str, Any]
    cost: float


class LabelEngine(Protocol):
    """Builds the inputs of an existing WorkChain or CalcJob and turns its outputs into labels.

    ``inputs`` is everywhere the ``engine_inputs`` namespace of :class:`LabelWorkChain`: code, parameters and so on, the
    nodes that all frames share. An engine is stateless; to add one, register the class under the entry point group
    ``aiida_mlipal.engines``.
    """

    #: The plugin that the engine's code is registered with.
    plugin: str

    def build(
        self,
        code: orm.AbstractCode,
        structures: Sequence[orm.StructureData],
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return ``inputs`` for these structures from the plain values of a protocol's ``label`` section.

        :raises ValueError: for anything that is missing or unknown, with what to type instead.
        """

    def validate(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""

    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the readable level of theory; two labels with equal ones may be trained on together."""

    def describe(self, inputs: Inputs) -> orm.Dict:
        """Return :meth:`level_of_theory` as a node made by a calcfunction from ``inputs``."""

    def tasks(self, frames: ConfigurationsData, inputs: Inputs) -> dict[str, Task]:
        """Return the tasks for ``frames`` by link label, all nodes in them made by a calcfunction."""

    def process(self, task_inputs: Inputs, inputs: Inputs) -> tuple[Any, dict[str, Any]]:
        """Return the process class and the inputs to submit for one task."""

    def result(self, process: orm.ProcessNode) -> orm.Data | None:
        """Return the output that :meth:`collect` reads, also of a failed process; ``None`` if it left nothing."""

    def collect(
        self, frames: ConfigurationsData, level_of_theory: orm.Dict, checks: orm.Dict, results: dict[str, orm.Data]
    ) -> ConfigurationsData:
        """Return the label chunk: ``frames`` with accepted and rejected labels, made by a calcfunction."""


def failure_reason(output: orm.Data) -> str:
    """Return why the calculation that created ``output`` left no label."""
    creator = output.creator
    if creator is None:
        return 'the output has no creator'
    state = creator.process_state.value if creator.process_state else 'in an unknown state'
    if creator.exit_status is None:
        return f'{creator.process_label} was {state}'
    return f'{creator.process_label} exited with {creator.exit_status}: {creator.exit_message}'


def check_label(
    energy: float, forces: NDArray[np.float64], stress: NDArray[np.float64], n_atoms: int, checks: Mapping[str, Any]
) -> str:
    """Return why a label is not to be trusted, or an empty string."""
    if not np.isfinite(energy):
        return 'the energy is not a finite number'
    if forces.shape != (n_atoms, 3) or not np.isfinite(forces).all():
        return 'forces are missing or not finite'
    if not np.isfinite(stress).all():
        return 'the stress is missing or not finite'
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > checks['max_force']:
        return f'the largest force, {largest:.1f} eV/Å, is above {checks["max_force"]:g} eV/Å'
    return ''


def cost_estimate(frames: Configurations) -> NDArray[np.float64]:
    """Return a relative cost per frame, for sorting only: electrons to the third power, by volume for lone atoms."""
    volume = np.abs(np.linalg.det(frames.cell)) / 20.0
    size = np.maximum(frames.n_atoms, np.where(frames.n_atoms == 1, volume / 4, 0))
    result: NDArray[np.float64] = size.astype(float) ** 3
    return result
