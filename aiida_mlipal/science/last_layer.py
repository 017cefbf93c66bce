"""What a potential's last layer says of its uncertainty: features, errors, and the spread that is derived from them.

A potential is linear in the weights of its last layer: energy = w · f and forces = w · g, g = -df/dr. What is known of
the spread of w, be it a law (:mod:`aiida_mlipal.science.llpr`) or a sample (:mod:`aiida_mlipal.science.readouts`), is
thereby known of energies and forces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ('RIDGES', 'LastLayerData', 'LastLayerSpread', 'Units', 'likely_scale')

#: Ridges that are tried, in units of the mean eigenvalue of the normal matrix.
RIDGES: Final = np.logspace(-8, 2, 21)
#: Variances below this part of the largest are zero by symmetry (atoms of a perfect crystal) and say nothing.
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
class LastLayerSpread:
    """Square roots of covariances of the weights: a variance is the sum over rows of (row · features)²."""

    energy: NDArray[np.float64]  #: (R, P) for energies
    forces: NDArray[np.float64]  #: (K, P) for forces
    report: dict[str, Any]  #: what was found: ridge, scale and sizes


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2))) or 1.0


class Units:
    """Units in which energies per atom, forces and features are all of order one.

    Energies and forces are in units of their errors on the validation set, features in units of their root mean square
    over the training forces.

    :raises ValueError: if the features of the training set are all constant.
    """

    def __init__(self, train: LastLayerData, valid: LastLayerData) -> None:
        scale = np.sqrt(np.mean(train.forces**2, axis=0))
        #: (P,) the hidden features of other heads are always zero, and left out
        self.used: NDArray[np.bool_] = scale > _TINY * scale.max(initial=0.0)
        if not self.used.any():
            raise ValueError(
                'the uncertainty of the last layer needs training frames with forces that depend on it: all features '
                'are constant. Add rattled frames.'
            )
        self.force = _rms(valid.forces_error)  #: eV/Å
        self.energy = _rms(valid.energy_error / valid.n_atoms)  #: eV per atom
        self._inverse = 1 / scale[self.used]

    def features(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``rows`` of features, ``(N, P)``, as ``(N, P')`` in these units."""
        result: NDArray[np.float64] = rows[:, self.used] * self._inverse
        return result

    def weights(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows of weights of features in these units, ``(N, P')``, as weights of the features: ``(N, P)``."""
        result = np.zeros((len(rows), len(self.used)))
        result[:, self.used] = rows * self._inverse
        return result


def likely_scale(errors: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[float, float]:
    """Return alpha at the minimum of the negative log likelihood, and that minimum without its constants.

    For errors from normal laws of variance alpha² s², -log L = N log alpha + sum(log s² + e²/(alpha s)²) / 2 is lowest
    for alpha² = <e²/s²>.

    :raises ValueError: if all variances are zero.
    """
    known = variances > _TINY * variances.max(initial=0.0)
    if not known.any():
        raise ValueError(
            'the uncertainty of the last layer cannot be calibrated: no validation frame has a force or an energy that '
            'depends on it. Add rattled frames to the training set.'
        )
    alpha2 = max(float(np.mean(errors[known] ** 2 / variances[known])), np.finfo(float).tiny)
    return float(np.sqrt(alpha2)), 0.5 * float(np.log(alpha2) + np.mean(np.log(variances[known])))
