"""Last-layer prediction rigidity: the uncertainty of one model from the covariance of its last-layer features.

Bigi, Chong, Ceriotti and Grasselli, "A prediction rigidity formalism for low-cost uncertainties in trained neural
networks", arXiv 2403.02251. With H, the sum of f f^T and g g^T over the training set (features of energies and of
forces, see :mod:`aiida_mlipal.science.last_layer`), the posterior of the weights is a normal law with covariance
alpha² (H + ridge)^-1, and the variance of a new energy or force is f^T (H + ridge)^-1 f (or of g), times alpha². No
second training is needed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from aiida_mlipal.science.last_layer import RIDGES, LastLayerData, LastLayerSpread, Units, likely_scale

__all__ = ('N_DIRECTIONS', 'fit')

#: Directions in the space of the weights along which forces are differentiated: one backward pass each, see `fit`.
N_DIRECTIONS: Final = 16


def fit(train: LastLayerData, valid: LastLayerData, *, seed: int, n_directions: int = N_DIRECTIONS) -> LastLayerSpread:
    """Return the rigidity of the training set, calibrated on the validation set.

    Energies per atom, force components and features enter H in units in which they are of order one. The ridge is the
    one of a grid under which the errors of the validation forces are most likely. Energies have an alpha of their own:
    their errors are largely of one sign.

    Exact variances of forces need a backward pass per feature. With fewer directions K < P the covariance is sampled:
    K orthonormal directions drawn uniformly, whose rotation by the root of the covariance, times sqrt(P/K), has that
    covariance as its mean, with less noise than K independent draws. The same directions serve all frames and atoms.

    :param seed: of the directions.
    :raises ValueError: if the features of the validation set are all zero.
    """
    units = Units(train, valid)
    forces = units.features(train.forces) / units.force
    energies = units.features(train.energy / train.n_atoms[:, None]) / units.energy
    values, vectors = np.linalg.eigh(forces.T @ forces + energies.T @ energies)
    values = np.maximum(values, 0.0)
    squares = (units.features(valid.forces) @ vectors) ** 2
    ridges = RIDGES * values.mean()
    trials = [likely_scale(valid.forces_error, squares @ (1 / (values + ridge))) for ridge in ridges]
    best = int(np.argmin([likelihood for _, likelihood in trials]))
    ridge, alpha_forces = float(ridges[best]), trials[best][0]
    rows = units.weights((vectors / np.sqrt(values + ridge)).T)  # rows^T rows is the covariance
    alpha_energy, _ = likely_scale(valid.energy_error, np.sum((valid.energy @ rows.T) ** 2, axis=1))
    directions = rows
    if n_directions < len(rows):
        normal = np.random.default_rng(seed).normal(size=(len(rows), n_directions))
        directions = np.sqrt(len(rows) / n_directions) * np.linalg.qr(normal)[0].T @ rows
    return LastLayerSpread(
        energy=alpha_energy * rows,
        forces=alpha_forces * directions,
        report={
            'ridge': ridge,
            'alpha_forces': alpha_forces,
            'alpha_energy': alpha_energy,
            'n_features': len(rows),
            'n_directions': len(directions),
            'n_train_frames': len(train.n_atoms),
            'n_valid_frames': len(valid.n_atoms),
        },
    )
