"""Relaxation of many systems at once by FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)), each on its own.

Where cells relax too, three rows per system describe the deformation of its first cell, scaled by the number of atoms
(Tadmor et al., Phys. Rev. B 59, 235 (1999), as ASE's ``UnitCellFilter``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.bounds import NOT_FINITE, can_be_labelled, out_of_bounds
from aiida_mlipal.runners.forces import Forces
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Frame, Replica
from aiida_mlipal.science.exploration_settings import ExplorationSettings

__all__ = ('Relaxation', 'batches', 'relax')

#: The constants of the paper; time steps in ASE's units, as there.
_N_MIN: Final = 5
_FASTER: Final = 1.1
_SLOWER: Final = 0.5
_MIXING: Final = 0.1
_LESS_MIXING: Final = 0.99
_STEP: Final = 0.1
_MAX_STEP: Final = 1.0
#: No atom moves farther in a step, Å.
_MAX_MOVE: Final = 0.2


class _Relaxing(Systems):
    """Systems on their way downhill, in generalised coordinates: atoms in the first cell, and its deformation.

    A row per atom and, where cells relax, three more per system.
    """

    ATOMIC: ClassVar[tuple[str, ...]] = (*Systems.ATOMIC, 'first_positions', 'velocities')
    SYSTEMIC: ClassVar[tuple[str, ...]] = (
        *Systems.SYSTEMIC, 'first_cells', 'deformation', 'cell_velocities', 'step', 'mixing', 'count',
    )  # fmt: skip

    first_positions: Any  #: ``(A, 3)``, Å; where the atoms would be in the first cell
    first_cells: Any  #: ``(S, 3, 3)``, Å
    deformation: Any  #: ``(S, 3, 3)`` of the first cell
    velocities: Any  #: ``(A, 3)``
    cell_velocities: Any  #: ``(S, 3, 3)``
    step: Any  #: ``(S,)``
    mixing: Any  #: ``(S,)``
    count: Any  #: ``(S,)``, steps downhill without a break

    def __init__(self, replicas: Sequence[Replica], forces: Forces, cells: bool) -> None:
        self._act, self._relaxes_cells = forces, cells
        super().__init__(replicas, forces.device)

    def rows(self, replicas: Sequence[Replica]) -> dict[str, Any]:
        """See :meth:`Systems.rows`."""
        rows = super().rows(replicas)
        n = len(replicas)
        return {
            **rows,
            'first_positions': rows['positions'].clone(),
            'velocities': self.tensor(np.zeros(rows['positions'].shape)),
            'first_cells': rows['cells'].clone(),
            'deformation': self.tensor(np.tile(np.eye(3), (n, 1, 1))),
            'cell_velocities': self.tensor(np.zeros((n, 3, 3))),
            'step': self.tensor(np.full(n, _STEP)),
            'mixing': self.tensor(np.full(n, _MIXING)),
            'count': self.tensor(np.zeros(n)),
        }

    def evaluate(self) -> tuple[Any, Any, Any, Any]:
        """Return energies ``(S,)``, forces ``(A, 3)`` and both kinds of generalised forces, per atom and per cell."""
        import torch

        energies, forces, stresses = self._act(self, stress=self._relaxes_cells)
        if not self._relaxes_cells:
            return energies, forces, forces, torch.zeros_like(self.deformation)
        volumes = torch.linalg.det(self.cells).abs()[:, None, None]
        on_cell = torch.linalg.solve(self.deformation, (-volumes * stresses).mT).mT
        on_atoms = torch.einsum('ai,aij->aj', forces, self.deformation[self.system])
        return energies, forces, on_atoms, on_cell / self._n_atoms

    @property
    def _n_atoms(self) -> Any:
        return self.tensor(self.sizes).double()[:, None, None]

    def _sum(self, on_atoms: Any, on_cells: Any) -> Any:
        return self.per_system(on_atoms.sum(dim=1), 'sum') + on_cells.sum(dim=(1, 2))

    def move(self, on_atoms: Any, on_cells: Any) -> None:
        """Go one step of FIRE along the generalised forces."""
        import torch

        v, w, tiny = self.velocities, self.cell_velocities, 1e-300
        downhill = self._sum(on_atoms * v, on_cells * w) >= 0
        speed, force = self._sum(v * v, w * w), self._sum(on_atoms**2, on_cells**2)
        steer = self.mixing * torch.sqrt(speed / force.clamp_min(tiny))
        keep = torch.where(downhill, 1 - self.mixing, 0.0)
        steer = torch.where(downhill, steer, 0.0)
        self.count = torch.where(downhill, self.count + 1, 0.0)
        long = downhill & (self.count > _N_MIN)
        same_or_less = torch.where(downhill, self.step, self.step * _SLOWER)
        self.step = torch.where(long, (self.step * _FASTER).clamp_max(_MAX_STEP), same_or_less)
        self.mixing = torch.where(long, self.mixing * _LESS_MIXING, torch.where(downhill, self.mixing, _MIXING))
        gain = steer + self.step
        self.velocities = keep[self.system, None] * v + gain[self.system, None] * on_atoms
        self.cell_velocities = keep[:, None, None] * w + gain[:, None, None] * on_cells
        moves = self.step[self.system, None] * self.velocities
        cell_moves = self.step[:, None, None] * self.cell_velocities
        farthest = torch.maximum(
            self.per_system(moves.norm(dim=1), 'amax'), cell_moves.norm(dim=2).amax(dim=1)
        ).clamp_min(_MAX_MOVE)
        self.first_positions = self.first_positions + (_MAX_MOVE / farthest)[self.system, None] * moves
        self.deformation = self.deformation + (_MAX_MOVE / farthest)[:, None, None] * cell_moves / self._n_atoms
        self.positions = torch.einsum('aj,aij->ai', self.first_positions, self.deformation[self.system])
        self.cells = self.first_cells @ self.deformation.mT


@dataclass(eq=False, kw_only=True)
class Relaxation:
    """How one system relaxed. All ``frames`` are within bounds; the last one is where it ended."""

    replica: Replica
    frames: list[Frame] = field(default_factory=list)
    energy: float = float('nan')  #: eV, of the last frame
    residual: float = float('nan')  #: largest generalised force of the last frame, eV/Å
    n_steps: int = 0
    reason: str = ''  #: why it left the bounds, if it did
    unsafe: Frame | None = None  #: the first frame out of bounds, if it can still be labelled


def batches(replicas: Sequence[Replica], max_atoms: int) -> Iterator[list[Replica]]:
    """Yield replicas with at most ``max_atoms`` atoms in all (one replica may have more)."""
    batch: list[Replica] = []
    for replica in replicas:
        if batch and sum(len(item.numbers) for item in batch) + len(replica.numbers) > max_atoms:
            yield batch
            batch = []
        batch.append(replica)
    if batch:
        yield batch


def relax(
    replicas: Sequence[Replica], forces: Forces, settings: ExplorationSettings,
    *, converged_force: float, n_steps: int, stride: int, cells: bool = False,
) -> list[Relaxation]:  # fmt: skip
    """Relax all replicas until no generalised force is larger than ``converged_force`` (eV/Å).

    Every ``stride`` steps, and at the end, a frame is kept if it is within bounds; if not, the replica ends there. So
    does one whose forces are not finite. The first frame may be out of bounds: it is what is to be relaxed. Bonds may
    break and form.

    :param cells: relax the cells too, which must be periodic in all directions.
    """
    done: list[Relaxation] = []
    for batch in batches(replicas, settings.atoms_per_batch):
        mine = [Relaxation(replica=replica) for replica in batch]
        _relax_together(
            mine, forces, settings, converged_force=converged_force, n_steps=n_steps, stride=stride, cells=cells
        )
        done += mine
    return done


def _relax_together(
    all_here: list[Relaxation], forces: Forces, settings: ExplorationSettings,
    *, converged_force: float, n_steps: int, stride: int, cells: bool,
) -> None:  # fmt: skip
    here = list(all_here)
    systems = _Relaxing([one.replica for one in here], forces, cells)
    for step in range(n_steps + 1):
        energies, force, on_atoms, on_cells = systems.evaluate()
        largest = systems.per_system(force.norm(dim=1), 'amax').tolist()
        on_cell = on_cells.norm(dim=2).amax(dim=1).tolist()
        positions, lattice = systems.split(systems.positions), systems.cells.cpu().numpy().copy()
        going_on = []
        for place, one in enumerate(here):
            residual = max(largest[place], on_cell[place])
            one.n_steps = step
            is_last = step == n_steps or residual <= converged_force
            if not np.isfinite(residual):
                one.reason = NOT_FINITE
                continue
            if is_last or (step and step % stride == 0):
                _keep(one, positions[place], lattice[place], float(energies[place]), largest[place], settings)
                one.residual = residual
            if not (is_last or one.reason):
                going_on.append(place)
        if not going_on:
            return
        if len(going_on) < len(here):
            mask = np.isin(np.repeat(np.arange(len(here)), systems.sizes), going_on)
            systems.keep(going_on)
            on_atoms, on_cells = on_atoms[systems.tensor(mask)], on_cells[going_on]
            here = [here[place] for place in going_on]
        systems.move(on_atoms, on_cells)


def _keep(
    one: Relaxation, positions: NDArray[np.float64], cell: NDArray[np.float64], energy: float, largest: float,
    settings: ExplorationSettings,
) -> None:  # fmt: skip
    """Keep the frame of one system, or say why it is out of bounds."""
    frame = Frame(step=one.n_steps, positions=positions, cell=cell)
    one.reason = out_of_bounds(one.replica, frame, largest, float('nan'), settings, bonds_hold=False)
    if not one.reason:
        one.frames.append(frame)
        one.energy = energy
    elif can_be_labelled(one.replica, frame, settings):
        one.unsafe = frame
