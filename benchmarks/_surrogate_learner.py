"""The potential of `_surrogate.py` as the model of a closed loop: it moves replicas, and is evaluated as MACE is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from _surrogate import Basis, Features, Fit, Normal
from _systems import System
from ase import Atoms

from aiida_mlipal.runners.forces import Prediction
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation

N_HIDDEN = 256
#: eV/Å, see :meth:`_surrogate.Normal.add`: MACE's loss is gentle with large forces too.
USUAL_FORCE = 10.0
#: Frames whose features are kept: test set, dataset and a pool.
N_KEPT = 1000


class Describer:
    """Features of frames, which do not change when the model learns: kept from round to round and run to run."""

    def __init__(self, system: System) -> None:
        """Scale the inputs of the features to rattled parents: nothing of what is to be found is known beforehand."""
        self.basis = Basis(sorted({int(z) for z in system.parent.numbers}), system.cutoff, N_HIDDEN, seed=0)
        rng = np.random.default_rng(0)
        rattled = [system.parent.copy() for _ in range(20)]
        for atoms in rattled:
            atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        self.basis.scale_to(rattled)
        self._kept = lru_cache(maxsize=N_KEPT)(self._features)

    def __call__(self, atoms: Atoms) -> Features:
        """Return the features of a frame."""
        arrays = (atoms.numbers.astype(int), atoms.positions, atoms.cell.array, atoms.pbc)
        return self._kept(*(array.tobytes() for array in arrays))

    def _features(self, numbers: bytes, positions: bytes, cell: bytes, pbc: bytes) -> Features:
        atoms = Atoms(
            np.frombuffer(numbers, dtype=int),
            np.frombuffer(positions).reshape(-1, 3),
            cell=np.frombuffer(cell).reshape(3, 3),
            pbc=np.frombuffer(pbc, dtype=bool),
        )
        return self.basis.features(atoms)


class SurrogateForces:
    """See :class:`aiida_mlipal.runners.forces.Forces`. Dynamics at constant volume need no energy and no stress."""

    device = 'cpu'
    has_uncertainties = True

    def __init__(self, describe: Describer, fit: Fit) -> None:
        self._describe, self._fit = describe, fit

    def __call__(self, systems: Systems, *, stress: bool = False) -> Prediction:
        """Return forces."""
        forces = self._describe.basis.forces(_atoms(systems), self._fit.weights)
        unknown = systems.tensor(np.full(len(systems.replicas), np.nan))
        return Prediction(energies=unknown, forces=systems.tensor(forces))

    def state(self, systems: Systems) -> dict[str, Any]:
        """Nothing is remembered between calls."""
        return {}

    def restore(self, systems: Systems, state: dict[str, Any]) -> None:
        """Nothing is remembered between calls."""

    def uncertainties(self, systems: Systems) -> Any:
        """Return the largest uncertainty of an atom's force in each system, eV/Å."""
        spreads = (self._fit.forces_std(self._describe(atoms).forces) for atoms in _atoms(systems))
        return systems.tensor(np.array([float(spread.max()) for spread in spreads]))


def _atoms(systems: Systems) -> list[Atoms]:
    cells, positions = systems.cells.numpy(), systems.split(systems.positions)
    return [
        Atoms(replica.numbers, positions[row], cell=cells[row], pbc=replica.pbc)
        for row, replica in enumerate(systems.replicas)
    ]


class SurrogateLearner:
    """A potential that adds new frames to its equations; its uncertainty is its Bayesian posterior."""

    def __init__(self, describe: Describer) -> None:
        self._describe = describe
        self._normal = Normal(describe.basis.n_features, len(describe.basis.elements))
        self._known: set[str] = set()

    def train(self, dataset: Configurations) -> None:
        """Learn from the training frames."""
        for row in np.flatnonzero(dataset.is_labelled & dataset.has_role('train')).tolist():
            frame = str(dataset.frame_id[row])
            if frame not in self._known:
                self._known.add(frame)
                rows = slice(dataset.offsets[row], dataset.offsets[row + 1])
                labels = float(dataset.energy[row]), dataset.forces[rows]
                self._normal.add(self._describe(dataset.atoms(row)), *labels, usual_force=USUAL_FORCE)
        self._fit = self._normal.solve()
        self.forces = SurrogateForces(self._describe, self._fit)

    def evaluate(self, frames: Configurations) -> Evaluation:
        """Return what the model says of frames; its descriptors are its mean features."""
        features = [self._describe(atoms) for atoms in frames.to_atoms()]
        sums = np.array([item.energy for item in features])
        energy, fit = sums @ self._fit.weights, self._fit
        return Evaluation(
            frame_id=frames.frame_id,
            n_atoms=frames.n_atoms,
            energy=energy,
            forces=np.concatenate([(item.forces @ fit.weights).reshape(-1, 3) for item in features]),
            stress=np.full((len(frames), 6), np.nan),
            energy_std=np.linalg.norm(sums @ fit.root, axis=1),
            stress_std=np.full(len(frames), np.nan),
            forces_std=np.concatenate([fit.forces_std(item.forces) for item in features]),
            member_energy=energy[:, None],
            descriptors=sums / frames.n_atoms[:, None],
        )
