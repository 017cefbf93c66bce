"""Runs of `label_efficiency.py`: frames of a pool, one fit, one choice, and the errors and curves of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from _surrogate import Basis, Features, Fit, Normal
from ase import Atoms

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.strategies.pick import NEED_COST, NEED_UNCERTAINTY, Candidates, pick

#: What a label costs grows with this power of the number of atoms: all that `cost_aware` is told.
COST_POWER = 3
METRICS = ('mean', 'tail', 'worst group')


@dataclass
class Frames:
    """Frames with their features and, as far as they have any, labels (eV, eV/Å) and groups."""

    atoms: list[Atoms]
    features: list[Features]
    ids: np.ndarray
    energy: list[float]
    forces: list[np.ndarray]
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.atoms)

    def take(self, rows: Sequence[int] | np.ndarray) -> Frames:
        """Return some of the frames."""
        chosen = [int(row) for row in rows]
        lists = ([column[row] for row in chosen] for column in (self.energy, self.forces))
        return Frames(
            [self.atoms[row] for row in chosen],
            [self.features[row] for row in chosen],
            self.ids[chosen],
            *lists,
            self.group[chosen],
        )

    @property
    def descriptors(self) -> np.ndarray:
        """The mean features of the atoms of each frame, (F, D), as MACE's descriptors are."""
        return np.array([features.energy / features.n_atoms for features in self.features])


def described(basis: Basis, atoms: list[Atoms], group: Sequence[str] | str = '') -> Frames:
    """Return frames with their features, without labels."""
    groups = np.array([group] * len(atoms) if isinstance(group, str) else list(group))
    ids = Configurations.from_atoms(atoms).frame_id if atoms else np.zeros(0, dtype=str)
    features = [basis.features(item) for item in atoms]
    return Frames(atoms, features, ids, [np.nan] * len(atoms), [np.zeros(0)] * len(atoms), groups)


class Learner:
    """A potential that is trained again whenever frames are added, and remembers them."""

    def __init__(self, basis: Basis) -> None:
        self.basis = basis
        self.normal = Normal(basis.n_features, len(basis.elements))
        self.descriptors = np.zeros((0, basis.n_features))
        self.fit: Fit | None = None

    def learn(self, frames: Frames) -> Fit:
        """Add labelled frames and fit."""
        for features, energy, forces in zip(frames.features, frames.energy, frames.forces, strict=True):
            self.normal.add(features, energy, forces)
        if len(frames):
            self.descriptors = np.concatenate((self.descriptors, frames.descriptors))
        self.fit = self.normal.solve()
        return self.fit

    def choose(self, strategy: str, pool: Frames, k: int, seed: Sequence[int]) -> np.ndarray:
        """Return the rows of the pool that the strategy of the campaign's own selection picks."""
        assert self.fit is not None
        uncertainty = None
        if strategy in NEED_UNCERTAINTY:
            spreads = (self.fit.forces_std(features.forces) for features in pool.features)
            uncertainty = np.array([spread.max() for spread in spreads])
        cost = np.array([float(len(atoms)) ** COST_POWER for atoms in pool.atoms]) if strategy in NEED_COST else None
        given = Candidates.from_descriptors(pool.descriptors, self.descriptors, pool.ids, uncertainty, cost)
        return pick(strategy, given, k, list(seed)).order


def errors(fit: Fit, test: Frames) -> tuple[float, float, float]:
    """Return the errors of forces of a fit on labelled frames, see :func:`force_errors`."""
    square = [
        np.mean(((features.forces @ fit.weights).reshape(-1, 3) - forces) ** 2, axis=1)
        for features, forces in zip(test.features, test.forces, strict=True)
    ]
    return force_errors(np.concatenate(square), np.repeat(test.group, [len(part) for part in square]))


def force_errors(square: np.ndarray, group: np.ndarray) -> tuple[float, float, float]:
    """Return the errors of forces: mean, tail and worst group, eV/Å.

    They are the RMSE per component; the 95th percentile, over atoms, of the RMSE of the components of one force; and
    the largest RMSE of a group.

    :param square: (A,), square error of the force on each atom, mean over the components.
    :param group: (A,), of the frame of each atom.
    """
    groups = [square[group == name].mean() for name in np.unique(group)]
    return float(np.sqrt(square.mean())), float(np.sqrt(np.quantile(square, 0.95))), float(np.sqrt(max(groups)))


@dataclass
class Curve:
    """The learning curve of one strategy with one seed."""

    n_labels: list[int]
    errors: list[tuple[float, float, float]]

    def add(self, n_labels: int, found: tuple[float, float, float]) -> None:
        """Add a point."""
        self.n_labels.append(n_labels)
        self.errors.append(found)
