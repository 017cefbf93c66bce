"""Drift alarm: how far the frames of an iteration are outside of what the models were trained on.

Density and extrapolation are measured in the principal components of the training descriptors that hold 95 % of their
variance, each divided by its spread; the nearest training frame is sought with all descriptors, so that it shows where
a direction is new. All refers to the descriptors of one model: figures of two iterations compare as far as their models
do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.descriptors import standardise
from aiida_mlipal.science.plain import to_plain

__all__ = ('ALARM', 'GRADES', 'TrainingDomain', 'active_set', 'drift', 'energy_z_scores', 'grades')

#: Share of the variance that the principal components hold.
_VARIANCE: Final = 0.95
#: Training frames in regions sparser than this quantile of their own densities do not count as populated.
_QUANTILE: Final = 0.02
#: Upper ends of the first four grades, in units of the extrapolation grade of MaxVol: interpolation; accurate, reliable
#: and bold extrapolation; beyond, nothing that the model says can be relied on.
GRADES: Final = (1.0, 2.0, 5.0, 10.0)
#: A determinant grows by less than this in the last exchange of the active set.
_ENOUGH: Final = 1.01
#: The alarm is given if more than this share of the frames is outside.
ALARM: Final = 0.5
_MIN_FRAMES: Final = 4


@dataclass(frozen=True, eq=False)
class TrainingDomain:
    """Where the training frames are, ``R`` of them, in ``P`` principal components.

    The density is a sum of Gaussians on the training frames with Scott's width; its threshold is a low quantile of the
    densities that the training frames have without their own Gaussian.
    """

    rows: NDArray[np.float64]  #: (R, D), descriptors
    scores: NDArray[np.float64]  #: (R, P), mean 0 and variance 1 in each column
    projection: NDArray[np.float64]  #: (D, P)
    mean: NDArray[np.float64]  #: (D,)
    usual_distance: float  #: median distance of a training frame to its nearest neighbour, all descriptors
    threshold: float  #: logarithm of the density at the edge of the domain

    @classmethod
    def of(cls, descriptors: NDArray[np.float64]) -> TrainingDomain | None:
        """Return the domain of training ``descriptors`` (R, D); None for fewer than four frames, or equal ones."""
        if len(descriptors) < _MIN_FRAMES:
            return None
        mean = descriptors.mean(axis=0)
        _, singular, directions = np.linalg.svd(descriptors - mean, full_matrices=False)
        variances = singular**2 / len(descriptors)
        if not variances[0] > 0:
            return None
        n_kept = int(np.searchsorted(np.cumsum(variances) / variances.sum(), _VARIANCE)) + 1
        projection = (directions[:n_kept] / np.sqrt(variances[:n_kept, None])).T
        scores = (descriptors - mean) @ projection
        distances = cdist(scores, scores)
        np.fill_diagonal(distances, np.inf)
        densities = _log_density(distances, n_kept)
        between = cdist(descriptors, descriptors)
        np.fill_diagonal(between, np.inf)
        return cls(
            rows=descriptors,
            scores=scores,
            projection=projection,
            mean=mean,
            usual_distance=float(np.median(between.min(axis=1))),
            threshold=float(np.quantile(densities, _QUANTILE)),
        )

    def project(self, descriptors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the principal components of frames, ``(N, P)``."""
        scores: NDArray[np.float64] = (descriptors - self.mean) @ self.projection
        return scores

    def log_density_ratios(self, descriptors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logarithm of density over threshold, ``(N,)``: below zero is outside of the training domain."""
        distances = cdist(self.project(descriptors), self.scores)
        return _log_density(distances, self.scores.shape[1]) - self.threshold

    def nearest_distances(self, descriptors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance to the nearest training frame, ``(N,)``, in units of the usual one between those."""
        nearest: NDArray[np.float64] = cdist(descriptors, self.rows).min(axis=1) / max(self.usual_distance, 1e-12)
        return nearest

    def extrapolation(self, descriptors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the extrapolation grade of MaxVol, ``(N,)``.

        The largest coefficient of a frame as a linear combination of the active set of training frames (Podryabinkin
        and Shapeev, Comput. Mater. Sci. 140, 171 (2017)); up to 1 it lies within.
        """
        rows = _affine(self.scores)
        active = rows[active_set(rows)]
        values: NDArray[np.float64] = np.abs(_affine(self.project(descriptors)) @ np.linalg.pinv(active)).max(axis=1)
        return values


def _log_density(distances: NDArray[np.float64], n_dimensions: int) -> NDArray[np.float64]:
    """Return the logarithm of a sum of Gaussians, up to a constant; infinite distances do not count."""
    width = distances.shape[1] ** (-1 / (n_dimensions + 4))
    counts = np.isfinite(distances).sum(axis=1)
    result: NDArray[np.float64] = logsumexp(-0.5 * (distances / width) ** 2, axis=1) - np.log(counts)
    return result


def _affine(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([np.ones(len(scores)), scores])


def active_set(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which ``P`` of the rows ``(R, P)``, R >= P, span the largest volume, by exchanges (MaxVol).

    (Goreinov et al., Matrix Methods, World Scientific 2010, p. 247.)
    """
    _, _, order = qr(rows.T, mode='economic', pivoting=True)
    active: NDArray[np.int64] = order[: rows.shape[1]].astype(np.int64)
    for _ in range(100 * rows.shape[1]):
        coefficients = np.abs(rows @ np.linalg.pinv(rows[active]))
        row, place = np.unravel_index(int(np.argmax(coefficients)), coefficients.shape)
        if coefficients[row, place] <= _ENOUGH:
            break
        active[place] = row
    return active


def grades(extrapolation: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return grades from 1 (interpolation) to 5, see :data:`GRADES`. Round-off counts for the lower one."""
    values: NDArray[np.int64] = 1 + np.searchsorted(np.array(GRADES) * (1 + 1e-6), extrapolation)
    return values


def energy_z_scores(
    training: Configurations, energies: NDArray[np.float64], frames: Configurations, predicted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how many standard deviations of the training set each predicted energy per atom is off its mean, ``(N,)``.

    A linear fit of the training energies to the numbers of atoms of each element is taken off before. NaN where the
    training energies do not vary.

    :param energies: (R,) of the training frames, eV.
    :param predicted: (N,) of ``frames``, eV.
    """
    elements = np.unique(np.concatenate([training.numbers, frames.numbers]))

    def composition(configs: Configurations) -> NDArray[np.float64]:
        """Return the number of atoms of each element in each frame."""
        table = np.zeros((len(configs), len(elements)))
        np.add.at(table, (configs.atom_frame, np.searchsorted(elements, configs.numbers)), 1.0)
        return table

    per_element, *_ = np.linalg.lstsq(composition(training), energies, rcond=None)
    usual = (energies - composition(training) @ per_element) / training.n_atoms
    deviation = (predicted - composition(frames) @ per_element) / frames.n_atoms - usual.mean()
    spread = float(usual.std())
    return deviation / spread if spread > 1e-9 else np.full(len(frames), np.nan)


def drift(
    reference: NDArray[np.float64], descriptors: NDArray[np.float64], z_scores: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the figures of one iteration; without a training domain only how many frames there are.

    :param reference: (R, D) descriptors of the training frames.
    :param descriptors: (N, D) of the frames that were visited, by the same model.
    :param z_scores: (N,) see :func:`energy_z_scores`.
    """
    pool, known = standardise(descriptors, reference)
    domain = TrainingDomain.of(known)
    if domain is None or not len(pool):
        return {'n_frames': len(pool), 'n_training': len(known)}
    ratios, distances = domain.log_density_ratios(pool), domain.nearest_distances(pool)
    grade = grades(domain.extrapolation(pool))
    outside = float(np.mean(ratios < 0))
    figures = {
        'n_frames': len(pool),
        'n_training': len(known),
        'n_components': domain.scores.shape[1],
        'outside_share': outside,
        'median_log_density_ratio': float(np.median(ratios)),
        'grades': {str(value): int((grade == value).sum()) for value in range(1, len(GRADES) + 2)},
        'median_nearest_distance': float(np.median(distances)),
        'max_nearest_distance': float(distances.max()),
        'max_energy_z_score': float(np.abs(z_scores).max()),
        'alarm': outside > ALARM,
    }
    result: dict[str, Any] = to_plain(figures)
    return result
