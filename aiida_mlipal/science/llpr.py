"""Last-layer prediction rigidity: the uncertainty of one model from the covariance of its last-layer features.

Bigi, Chong, Ceriotti and Grasselli, "A prediction rigidity formalism for low-cost uncertainties in trained neural
networks", arXiv 2403.02251. A potential is linear in the weights of its last layer: energy = w · f and forces = w · g,
g = -df/dr. With H, the sum of f f^T and g g^T over the training set, the posterior of w is a normal law with covariance
alpha² (H + ridge)^-1, and the variance of a new energy or force is f^T (H + ridge)^-1 f (or of g), times alpha². No
second training is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ('N_DIRECTIONS', 'LastLayerData', 'Rigidity', 'fit')

#: Directions in the space of the weights along which forces are differentiated: one backward pass each, see `fit`.
N_DIRECTIONS: Final = 16
#: Ridges that are tried, in units of the mean eigenvalue of H.
_RIDGES: Final = np.logspace(-8, 2, 21)
#: Rigidities below this part of the largest are zero by symmetry (atoms of a perfect crystal) and say nothing.
_TINY: Final = 1e-12


@dataclass(frozen=True, eq=False, kw_only=True)
class LastLayerData:
    """Features and errors of F frames, with P features and C force components in all."""

    energy: NDArray[np.float64]  #: (F, P) derivatives of the energies by the weights, eV
    forces: NDArray[np.float64]  #: (C, P) derivatives of the force components by the weights, eV/Å
    n_atoms: NDArray[np.int64]  #: (F,)
    energy_error: NDArray[np.float64]  #: (F,) prediction less label, eV
    forces_error: NDArray[np.float64]  #: (C,) eV/Å


@dataclass(frozen=True, eq=False, kw_only=True)
class Rigidity:
    """Square roots of the calibrated covariances: a variance is the sum over rows of (row · features)²."""

    energy: NDArray[np.float64]  #: (P', P) for energies
    forces: NDArray[np.float64]  #: (K, P) for forces
    report: dict[str, Any]  #: what was found: ``ridge``, ``alpha_forces``, ``alpha_energy`` and the sizes


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2))) or 1.0


def _alpha(errors: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[float, float]:
    """Return alpha at the minimum of the negative log likelihood, and that minimum without its constants.

    For errors from normal laws of variance alpha² s², -log L = N log alpha + sum(log s² + e²/(alpha s)²) / 2 is lowest
    for alpha² = <e²/s²>.
    """
    known = variances > _TINY * variances.max(initial=0.0)
    if not known.any():
        raise ValueError(
            'the uncertainty `llpr` cannot be calibrated: no validation frame has a force or an energy that depends on '
            'the last layer. Add rattled frames to the training set.'
        )
    alpha2 = max(float(np.mean(errors[known] ** 2 / variances[known])), np.finfo(float).tiny)
    return float(np.sqrt(alpha2)), 0.5 * float(np.log(alpha2) + np.mean(np.log(variances[known])))


def fit(train: LastLayerData, valid: LastLayerData, *, seed: int, n_directions: int = N_DIRECTIONS) -> Rigidity:
    """Return the rigidity of the training set, calibrated on the validation set.

    Energies per atom and force components enter H in units of their errors on the validation set, features in units of
    their root mean square over the training forces. The ridge is the one of a grid under which the errors of the
    validation forces are most likely. Energies have an alpha of their own: their errors are largely of one sign.

    Exact variances of forces need a backward pass per feature. With fewer directions K < P the covariance is sampled:
    K orthonormal directions drawn uniformly, whose rotation by the root of the covariance, times sqrt(P/K), has that
    covariance as its mean, with less noise than K independent draws. The same directions serve all frames and atoms.

    :param seed: of the directions.
    :raises ValueError: if the features of the validation set are all zero.
    """
    scale = np.sqrt(np.mean(train.forces**2, axis=0))
    used = scale > _TINY * scale.max(initial=0.0)  # the hidden features of other heads are always zero
    if not used.any():
        raise ValueError(
            'the uncertainty `llpr` needs training frames with forces that depend on the last layer: all features are '
            'constant. Add rattled frames.'
        )
    inverse = 1 / scale[used]

    def scaled(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = rows[:, used] * inverse
        return result

    forces = scaled(train.forces) / _rms(valid.forces_error)
    energies = scaled(train.energy / train.n_atoms[:, None]) / _rms(valid.energy_error / valid.n_atoms)
    values, vectors = np.linalg.eigh(forces.T @ forces + energies.T @ energies)
    values = np.maximum(values, 0.0)
    squares = (scaled(valid.forces) @ vectors) ** 2
    ridges = _RIDGES * values.mean()
    trials = [_alpha(valid.forces_error, squares @ (1 / (values + ridge))) for ridge in ridges]
    best = int(np.argmin([likelihood for _, likelihood in trials]))
    ridge, alpha_forces = float(ridges[best]), trials[best][0]
    root = (vectors / np.sqrt(values + ridge)) * inverse[:, None]  # (P', P'); root root^T is the covariance
    rows = np.zeros((root.shape[1], len(scale)))
    rows[:, used] = root.T
    alpha_energy, _ = _alpha(valid.energy_error, np.sum((valid.energy @ rows.T) ** 2, axis=1))
    directions = rows
    if n_directions < len(rows):
        normal = np.random.default_rng(seed).normal(size=(len(rows), n_directions))
        directions = np.sqrt(len(rows) / n_directions) * np.linalg.qr(normal)[0].T @ rows
    return Rigidity(
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
