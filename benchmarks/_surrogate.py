"""A small potential whose training takes a second: linear in random features of local densities.

The density of the neighbours of an atom, by element, is expanded in radial functions and monomials of the direction;
products of two coefficients, summed over the monomials of one degree, do not change under rotations (the power
spectrum of SOAP, Bartók et al., Phys. Rev. B 87, 184115 (2013), in the Cartesian form of moment tensor potentials,
Shapeev, Multiscale Model. Simul. 14, 1153 (2016)). A layer of random weights, one per element, mixes them, and a
nonlinearity makes them many-body (random features: Rahimi and Recht, NIPS 2007). What is fitted is the layer after it,
to energies and forces, in closed form: Bayesian ridge regression, whose posterior is the uncertainty.

It is a potential of the kind that is in use (linear in fixed features, as SNAP, MTP and ACE are), not a neural network
whose features learn; `label_efficiency.py` says where real MACE models were trained instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list
from scipy.sparse import csr_matrix

DEGREES = 4  #: of the monomials: 0 to 3
RADIAL = 6
#: Error of an energy per atom that weighs as much as an error of 1 of a force component (eV, eV/Å).
ENERGY_UNIT = 0.03
RIDGES = np.logspace(-6, 1, 15)


def _monomials() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return exponents (M, 3), degrees (M,) and weights, whose products sum up to powers of the scalar product."""
    powers = [(a, b, n - a - b) for n in range(DEGREES) for a in range(n, -1, -1) for b in range(n - a, -1, -1)]
    weights = [np.sqrt(factorial(sum(p)) / np.prod([factorial(k) for k in p])) for p in powers]
    return np.array(powers), np.array([sum(p) for p in powers]), np.array(weights)


POWERS, DEGREE, WEIGHT = _monomials()
STARTS = np.flatnonzero(np.diff(DEGREE, prepend=-1))


@dataclass
class Features:
    """What a frame is made of, linear in the weights: ``P`` features and one column per element."""

    energy: np.ndarray  #: (P,) sums over atoms
    forces: np.ndarray  #: (3N, P)
    n_atoms: int


class Basis:
    """Local features of atoms and their derivatives."""

    def __init__(self, elements: list[int], cutoff: float, n_hidden: int, seed: int) -> None:
        self.elements, self.cutoff = elements, cutoff
        self.n_channels = RADIAL * len(elements)
        self.pairs = np.triu_indices(self.n_channels)
        self.n_inputs = self.n_channels + DEGREES * len(self.pairs[0])
        rng = np.random.default_rng(seed)
        self.mix = rng.normal(size=(len(elements), self.n_inputs, n_hidden)) / np.sqrt(self.n_inputs)
        self.bias = rng.normal(size=(len(elements), n_hidden))
        self.mean = np.zeros((len(elements), self.n_inputs))
        self.scale = np.ones((len(elements), self.n_inputs))

    def scale_to(self, frames: list[Atoms]) -> None:
        """Centre and scale the inputs to what occurs in ``frames``; their labels are not looked at."""
        rows: list[list[np.ndarray]] = [[] for _ in self.elements]
        for atoms in frames:
            first, second, vector, kinds = self._pairs([atoms])
            inputs, _ = self._inputs(first, second, kinds, self._densities(vector))
            for kind in range(len(self.elements)):
                rows[kind].append(inputs[kinds == kind])
        for kind, found in enumerate(rows):
            table = np.concatenate(found)
            self.mean[kind] = table.mean(axis=0)
            self.scale[kind] = np.sqrt(np.mean((table - table.mean(axis=0)) ** 2)) + 0.1 * np.abs(table).mean(axis=0)

    def _pairs(self, frames: list[Atoms]) -> tuple[np.ndarray, ...]:
        """Return centres, neighbours, vectors from one to the other, and the kinds of all atoms of all frames."""
        found, offset = [], 0
        for atoms in frames:
            first, second, vector = neighbour_list('ijD', atoms, self.cutoff)
            found.append((first + offset, second + offset, vector))
            offset += len(atoms)
        first, second, vector = (np.concatenate(column) for column in zip(*found, strict=True))
        kinds = np.searchsorted(self.elements, np.concatenate([atoms.numbers for atoms in frames]))
        return first, second, vector, kinds

    def _densities(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return radial functions over r^l (p, n, l) and their derivatives, monomials (p, m) and theirs (p, 3, m)."""
        r = np.linalg.norm(vector, axis=1)
        x = (r / self.cutoff)[:, None]
        n = np.arange(1, RADIAL + 1) * np.pi
        cut, slope = (1 - x**2) ** 3, -6 * x * (1 - x**2) ** 2 / self.cutoff
        wave = np.sin(n * x) / x
        rise = (n * np.cos(n * x) / x - np.sin(n * x) / x**2) / self.cutoff
        radial, change = wave * cut, rise * cut + wave * slope
        degrees = np.arange(DEGREES)
        inverse = r[:, None] ** -degrees
        value = radial[:, :, None] * inverse[:, None, :]
        derivative = change[:, :, None] * inverse[:, None, :] - value * degrees / r[:, None, None]
        power = vector[:, :, None] ** np.arange(DEGREES)  # (p, 3, k)
        factors = np.stack([power[:, axis, POWERS[:, axis]] for axis in range(3)], axis=1)
        lower = np.stack(
            [POWERS[:, axis] * power[:, axis, np.maximum(POWERS[:, axis] - 1, 0)] for axis in range(3)], axis=1
        )
        monomial = factors.prod(axis=1) * WEIGHT
        gradient = np.stack([lower[:, axis] * factors[:, axis - 1] * factors[:, axis - 2] for axis in range(3)], axis=1)
        return value, derivative / r[:, None, None], monomial, gradient * WEIGHT

    def _inputs(
        self, first: np.ndarray, second: np.ndarray, kinds: np.ndarray, parts: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs of the mixing layer of each atom, (N, X), and the densities that they are made of."""
        value, _, monomial, _ = parts
        phi = value[:, :, DEGREE] * monomial[:, None, :]  # (p, n, m)
        n_atoms = len(kinds)
        density = np.zeros((n_atoms, len(self.elements), RADIAL, len(DEGREE)))
        for kind in range(len(self.elements)):
            chosen = np.flatnonzero(kinds[second] == kind)
            spread = csr_matrix((np.ones(len(chosen)), (first[chosen], np.arange(len(chosen)))), (n_atoms, len(chosen)))
            density[:, kind] = (spread @ phi[chosen].reshape(len(chosen), -1)).reshape(n_atoms, RADIAL, -1)
        density = density.reshape(n_atoms, self.n_channels, -1)
        products = density[:, self.pairs[0]] * density[:, self.pairs[1]]
        power = np.add.reduceat(products, STARTS, axis=2)
        inputs = np.concatenate((density[:, :, 0], power.reshape(n_atoms, -1)), axis=1)
        return inputs, density

    @staticmethod
    def _slopes(vector: np.ndarray, parts: tuple[np.ndarray, ...]) -> np.ndarray:
        """Return the derivatives of the products of radial functions and monomials by the vectors, (p, 3, n, m)."""
        value, slope, monomial, gradient = parts
        along = (slope[:, :, DEGREE] * monomial[:, None, :])[:, None] * vector[:, :, None, None]
        result: np.ndarray = value[:, None][..., DEGREE] * gradient[:, :, None, :] + along
        return result

    def _hidden(self, inputs: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return activations and their slopes, (N, H) each: SiLU."""
        hidden = np.empty((len(kinds), self.bias.shape[1]))
        for kind in range(len(self.elements)):
            rows = kinds == kind
            hidden[rows] = (inputs[rows] - self.mean[kind]) / self.scale[kind] @ self.mix[kind] + self.bias[kind]
        sigmoid = 1 / (1 + np.exp(-hidden))
        return hidden * sigmoid, sigmoid * (1 + hidden * (1 - sigmoid))

    @property
    def n_features(self) -> int:
        """Number of columns: hidden units and one constant per element."""
        return int(len(self.elements) * (self.bias.shape[1] + 1))

    def _columns(self, kind: int) -> slice:
        size = self.bias.shape[1]
        return slice(kind * size, (kind + 1) * size)

    def features(self, atoms: Atoms) -> Features:
        """Return the features of a frame."""
        first, second, vector, kinds = self._pairs([atoms])
        parts = self._densities(vector)
        inputs, density = self._inputs(first, second, kinds, parts)
        active, slope = self._hidden(inputs, kinds)
        dphi = self._slopes(vector, parts)
        n_kinds, n_atoms = len(self.elements), len(atoms)
        energy = np.zeros(self.n_features)
        forces = np.zeros((3 * n_atoms, self.n_features), dtype=np.float32)
        energy[-n_kinds:] = np.bincount(kinds, minlength=n_kinds)
        for kind in range(n_kinds):
            energy[self._columns(kind)] = active[kinds == kind].sum(axis=0)
            rows = np.flatnonzero(kinds[first] == kind)
            if not len(rows):
                continue
            jacobian = self._jacobian(first[rows], kinds[second[rows]], density, dphi[rows]) / self.scale[kind]
            change = jacobian.reshape(-1, self.n_inputs).astype(np.float32) @ self.mix[kind].astype(np.float32)
            change = change.reshape(len(rows), 3, -1) * slope[first[rows], None].astype(np.float32)
            signs = np.concatenate((np.ones(len(rows)), -np.ones(len(rows)))).astype(np.float32)
            places = (np.concatenate((first[rows], second[rows])), np.tile(np.arange(len(rows)), 2))
            total = csr_matrix((signs, places), (n_atoms, len(rows))) @ change.reshape(len(rows), -1)
            forces[:, self._columns(kind)] = total.reshape(3 * n_atoms, -1)
        return Features(energy, forces, n_atoms)

    def _jacobian(self, first: np.ndarray, kinds: np.ndarray, density: np.ndarray, dphi: np.ndarray) -> np.ndarray:
        """Return the derivatives of the inputs of the centres by the vectors of the pairs, (p, 3, X)."""
        full = np.zeros((len(first), 3, self.n_channels, len(DEGREE)))
        for kind in range(len(self.elements)):
            full[kinds == kind, :, kind * RADIAL : (kind + 1) * RADIAL] = dphi[kinds == kind]
        centre = density[first]
        power = np.empty((len(first), 3, len(self.pairs[0]), DEGREES))
        for degree in range(DEGREES):
            m = degree == DEGREE
            outer = full[..., m] @ centre[:, None, :, m].swapaxes(-1, -2)
            power[..., degree] = outer[:, :, self.pairs[0], self.pairs[1]] + outer[:, :, self.pairs[1], self.pairs[0]]
        return np.concatenate((full[..., 0], power.reshape(len(first), 3, -1)), axis=2)

    def forces(self, frames: list[Atoms], weights: np.ndarray) -> np.ndarray:
        """Return the forces on all atoms of all frames, (N, 3), of the potential with these weights."""
        first, second, vector, kinds = self._pairs(frames)
        parts = self._densities(vector)
        inputs, density = self._inputs(first, second, kinds, parts)
        _, slope = self._hidden(inputs, kinds)
        inner = np.empty_like(inputs)
        for kind in range(len(self.elements)):
            rows = kinds == kind
            inner[rows] = (slope[rows] * weights[self._columns(kind)]) @ self.mix[kind].T / self.scale[kind]
        n_atoms = len(kinds)
        outer = np.zeros((n_atoms, self.n_channels, self.n_channels, DEGREES))
        outer[:, self.pairs[0], self.pairs[1]] = inner[:, self.n_channels :].reshape(n_atoms, -1, DEGREES)
        outer += outer.swapaxes(1, 2)
        pull = np.empty_like(density)
        for degree in range(DEGREES):
            m = degree == DEGREE
            pull[:, :, m] = outer[..., degree] @ density[:, :, m]
        pull[:, :, 0] += inner[:, : self.n_channels]
        own = pull.reshape(n_atoms, len(self.elements), RADIAL, -1)[first, kinds[second]]
        value, change, monomial, gradient = parts
        radial = (own * value[:, :, DEGREE]).sum(axis=1)  # (p, m)
        along = (own * change[:, :, DEGREE]).sum(axis=1)
        pairs = (gradient @ radial[:, :, None])[:, :, 0] + vector * (along * monomial).sum(axis=1)[:, None]
        columns = [
            np.bincount(first, pairs[:, axis], n_atoms) - np.bincount(second, pairs[:, axis], n_atoms)
            for axis in range(3)
        ]
        return np.stack(columns, axis=1)


@dataclass
class Fit:
    """A trained potential, with the root of the covariance of its weights."""

    weights: np.ndarray  #: (P,)
    root: np.ndarray  #: (P, P): covariance = root root^T

    def forces_std(self, forces: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the force on each atom per component, (N,), from features (3N, P)."""
        variance = ((forces @ self.root.astype(np.float32)) ** 2).sum(axis=1)
        return np.sqrt(variance.reshape(-1, 3).mean(axis=1))


class Normal:
    """The normal equations of frames, to which more can be added."""

    def __init__(self, n_features: int, n_constants: int) -> None:
        self.matrix, self.right = np.zeros((n_features, n_features)), np.zeros(n_features)
        self.square, self.n_rows, self.n_constants = 0.0, 0, n_constants

    def add(self, features: Features, energy: float, forces: np.ndarray, usual_force: float = np.inf) -> None:
        """Add the energy and the forces of a frame.

        :param usual_force: eV/Å; beyond it, the error that is allowed grows with the force on the atom, so that a few
            frames with enormous forces do not decide the fit (George et al., J. Chem. Phys. 153, 044104 (2020)).
        """
        noise = np.sqrt(1 + np.sum((forces / usual_force) ** 2, axis=1))
        unit = features.n_atoms * ENERGY_UNIT * np.sqrt(np.mean(noise**2))
        row, value = features.energy / unit, energy / unit
        flat, scaled = (forces / noise[:, None]).ravel(), features.forces
        if np.isfinite(usual_force):
            scaled = features.forces / np.repeat(noise, 3).astype(np.float32)[:, None]
        self.matrix += (scaled.T @ scaled).astype(float) + np.outer(row, row)
        self.right += scaled.T.astype(float) @ flat + row * value
        self.square += float(flat @ flat + value**2)
        self.n_rows += len(flat) + 1

    def solve(self) -> Fit:
        """Return the fit with the ridge under which the data are most likely (the evidence; MacKay, 1992).

        The constants of the elements are not held back by the ridge: they are taken out of the equations first.
        """
        n = len(self.right) - self.n_constants
        free, fixed = slice(n), slice(n, None)
        inverse = np.linalg.pinv(self.matrix[fixed, fixed])
        bridge = self.matrix[free, fixed] @ inverse
        matrix = self.matrix[free, free] - bridge @ self.matrix[fixed, free]
        right = self.right[free] - bridge @ self.right[fixed]
        square = self.square - self.right[fixed] @ inverse @ self.right[fixed]
        values, vectors = np.linalg.eigh(matrix)
        values, turned = np.maximum(values, 0.0), vectors.T @ right
        best = (np.inf, 0.0, 0.0)
        for ridge in RIDGES * values.mean():
            noise = max(square - np.sum(turned**2 / (values + ridge)), 1e-12 * square) / self.n_rows
            loss = self.n_rows * np.log(noise) + np.log1p(values / ridge).sum()
            best = min(best, (loss, ridge, noise))
        _, ridge, noise = best
        weights = vectors @ (turned / (values + ridge))
        constants = inverse @ (self.right[fixed] - self.matrix[fixed, free] @ weights)
        root = np.zeros((len(self.right), n))
        root[free] = np.sqrt(noise) * vectors / np.sqrt(values + ridge)
        return Fit(np.concatenate((weights, constants)), root)
