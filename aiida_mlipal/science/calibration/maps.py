"""From an uncertainty to the error to expect: a scale, or, where there is data for it, a power law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from aiida_mlipal.science.calibration.metrics import negative_log_likelihood

__all__ = ('MIN_FRAMES', 'ErrorMap', 'finite_committee', 'fit_map', 'fit_power_law', 'fit_scale')

#: Calibration frames below which a scale is all that is fitted.
MIN_FRAMES: Final = 20
_MIN_MEMBERS_FOR_CORRECTION: Final = 4
_N_FOLDS: Final = 5
_POWERS: Final = (0.1, 3.0)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ErrorMap:
    """The root mean square error to expect at an uncertainty u: ``alpha * pivot * (u / pivot)**power``."""

    alpha: float  #: expected error over uncertainty, at the pivot
    power: float = 1.0
    pivot: float = 1.0  #: root mean square of the uncertainties that it was fitted to

    def __call__(self, uncertainty: Floats) -> Floats:
        """Return the errors to expect; larger for a larger uncertainty."""
        if self.power == 1:
            return self.alpha * uncertainty
        return self.alpha * self.pivot * (uncertainty / self.pivot) ** self.power

    def uncertainty_at(self, error: float) -> float:
        """Return the uncertainty at which ``error`` is to be expected."""
        return float(self.pivot * (error / (self.alpha * self.pivot)) ** (1 / self.power))


def fit_scale(uncertainty: Floats, squared_error: Floats, weights: Floats) -> ErrorMap:
    """Return the scale at which mean squared expected and actual errors agree.

    A ratio of means, which a few atoms with a tiny uncertainty cannot dominate.

    :param uncertainty: (A,)
    :param squared_error: (A,), mean over the components of the force on an atom.
    :param weights: (A,)
    """
    square = float(np.average(uncertainty**2, weights=weights))
    return ErrorMap(float(np.sqrt(np.average(squared_error, weights=weights) / square)), pivot=float(np.sqrt(square)))


def fit_power_law(uncertainty: Floats, squared_error: Floats, weights: Floats) -> ErrorMap:
    """Return the power law whose exponent makes normal errors most likely; its prefactor is that of :func:`fit_scale`.

    One parameter more than a scale (Busk, Schmidt, Winther, Vegge and Jørgensen, Phys. Chem. Chem. Phys. 25, 25828
    (2023), calibrate with monotone maps). It is strictly monotone and goes on beyond the largest uncertainty that was
    seen, which is where a trust window ends: isotonic regression is constant there and full of ties below.
    """
    pivot = float(np.sqrt(np.average(uncertainty**2, weights=weights)))
    power = _likeliest_power(uncertainty / pivot, squared_error, weights)
    scale = fit_scale((uncertainty / pivot) ** power, squared_error, weights).alpha
    return ErrorMap(scale / pivot, power, pivot)


def _likeliest_power(relative: Floats, squared_error: Floats, weights: Floats) -> float:
    """Return the exponent under which errors of width ``prefactor * relative**exponent`` are most likely."""

    def loss(power: float) -> float:
        found = _likeliest(relative, squared_error, weights, power)
        return negative_log_likelihood(found(relative), squared_error, weights)

    return float(minimize_scalar(loss, bounds=_POWERS, method='bounded').x)


def _likeliest(uncertainty: Floats, squared_error: Floats, weights: Floats, power: float) -> ErrorMap:
    """Return the map with this exponent and the prefactor under which normal errors are most likely."""
    square = np.average(squared_error / uncertainty ** (2 * power), weights=weights)
    return ErrorMap(float(np.sqrt(square)), power)


def finite_committee(ratio: float, n_members: int) -> tuple[float, str]:
    """Return alpha from the ratio of mean squared error and mean variance, and what was done about the few members.

    Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), fit alpha² = -1/M + (M-3)/(M-1) <err²/s²>: the error of a mean
    of M members holds 1/M of their variance, and 1/s² is too large on average. Here alpha² is a ratio of means,
    <err²>/<s²>, which the second effect does not touch (the sample variance is unbiased); the first is subtracted, from
    the four members on for which the paper's form exists.
    """
    if n_members == 1:
        return float(np.sqrt(ratio)), 'none: the uncertainty is that of one model, not a spread of members'
    if n_members < _MIN_MEMBERS_FOR_CORRECTION:
        return float(np.sqrt(ratio)), f'none: {n_members} members, the finite-committee correction needs 4 or more'
    if ratio <= 2 / n_members:
        return float(np.sqrt(ratio)), 'none: the errors are not larger than what the spread of the mean explains'
    return float(np.sqrt(ratio - 1 / n_members)), f'1/{n_members} subtracted from alpha squared (Imbalzano 2021)'


def fit_map(
    uncertainty: Floats,
    squared_error: Floats,
    weights: Floats,
    trajectory: NDArray[np.str_],
    n_frames: int,
) -> tuple[ErrorMap, str]:
    """Return a power law where it predicts unseen trajectories better than a scale does, else the scale; and why.

    Judged by the likelihood of normal errors in a five-fold cross-validation in which the atoms of a trajectory are
    never on both sides; better means by two standard errors, of the mean over trajectories. Below
    :data:`MIN_FRAMES` frames or five trajectories it is a scale in any case.

    :param trajectory: (A,) names.
    """
    scale = fit_scale(uncertainty, squared_error, weights)
    names = np.unique(trajectory)
    if n_frames < MIN_FRAMES or len(names) < _N_FOLDS:
        what = f'{n_frames} calibration frames of {len(names)} trajectories'
        return scale, f'a scale: {what}, a power law needs {MIN_FRAMES} of {_N_FOLDS}'
    if not (uncertainty > 0).all():
        return scale, 'a scale: an uncertainty is zero, which has no logarithm'
    gain = _gain_of_a_power_law(uncertainty, squared_error, weights, trajectory, names)
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
    figures = f'{mean:.3g} +- {error:.2g} nats per component likelier on unseen trajectories'
    if mean <= 2 * error:
        return scale, f'a scale: under a power law errors are only {figures}'
    return fit_power_law(uncertainty, squared_error, weights), f'a power law: errors are {figures} than under a scale'


def _gain_of_a_power_law(
    uncertainty: Floats, squared_error: Floats, weights: Floats, trajectory: NDArray[np.str_], names: NDArray[np.str_]
) -> Floats:
    """Return by how much a power law makes the errors of each trajectory likelier, both fitted to other folds."""
    index = np.searchsorted(names, trajectory)
    gain = np.zeros(len(names))
    for fold in range(_N_FOLDS):
        seen = index % _N_FOLDS != fold
        data = uncertainty[seen], squared_error[seen], weights[seen]
        maps = [_likeliest(*data, power) for power in (1.0, _likeliest_power(*data))]
        for unseen in range(fold, len(names), _N_FOLDS):
            rows = index == unseen
            losses = [negative_log_likelihood(found(uncertainty[rows]), squared_error[rows]) for found in maps]
            gain[unseen] = losses[0] - losses[1]
    return gain
