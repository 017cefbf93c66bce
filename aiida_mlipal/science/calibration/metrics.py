"""How good uncertainties are: do they rank errors, and are they as large as the errors?

Expected errors ``sigma`` are standard deviations of one Cartesian component; errors are normal if all is well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf
from scipy.stats import mannwhitneyu, spearmanr

from aiida_mlipal.science.plain import to_plain

__all__ = (
    'LEVELS',
    'area_under_roc',
    'coverage',
    'expected_normalised_error',
    'metrics',
    'miscalibration_area',
    'negative_log_likelihood',
    'rank_correlation',
    'reliability',
    'sharpness',
)

#: Levels at which coverage is stated and intervals are made.
LEVELS: Final = (0.5, 0.68, 0.9, 0.95)

Floats = NDArray[np.float64]


def rank_correlation(uncertainty: Floats, error: Floats) -> float | None:
    """Return Spearman's rank correlation; None for fewer than three values or constant ones."""
    if len(error) < 3 or np.ptp(uncertainty) == 0 or np.ptp(error) == 0:
        return None
    return float(spearmanr(uncertainty, error).statistic)


def area_under_roc(uncertainty: Floats, bad: NDArray[np.bool_]) -> float | None:
    """Return the chance that a bad one has a larger uncertainty than a good one (ties count half), or None.

    The area under the receiver operating characteristic, which is the statistic of Mann and Whitney over all pairs.
    """
    if bad.all() or not bad.any():
        return None
    return float(mannwhitneyu(uncertainty[bad], uncertainty[~bad]).statistic / (bad.sum() * (~bad).sum()))


def reliability(sigma: Floats, error: Floats, levels: Sequence[float] | Floats) -> Floats:
    """Return the share of errors within the central normal interval of each level.

    :param sigma: (N,) or (N, 1), positive.
    :param error: (N,) or (N, 3), with sign.
    """
    inside = np.sort(_probability(sigma, error))
    shares: Floats = np.searchsorted(inside, np.asarray(levels), side='right') / len(inside)
    return shares


def coverage(sigma: Floats, error: Floats) -> dict[str, float]:
    """Return :func:`reliability` at :data:`LEVELS`, by level in per cent: ``{'50': 0.49, '68': ...}``."""
    shares = reliability(sigma, error, LEVELS).tolist()
    return {f'{100 * level:.0f}': share for level, share in zip(LEVELS, shares, strict=True)}


def miscalibration_area(sigma: Floats, error: Floats) -> float:
    """Return the area between the curve of :func:`reliability` over all levels and the diagonal, at most 0.5.

    Tran, Neiswanger, Yoon, Zhang, Xing and Ulissi, Mach. Learn.: Sci. Technol. 1, 025006 (2020).
    """
    levels = np.linspace(0, 1, 1001)
    return float(np.trapezoid(np.abs(reliability(sigma, error, levels) - levels), levels))


def expected_normalised_error(sigma: Floats, error: Floats, n_bins: int = 10) -> float:
    """Return ENCE: how far the RMS of errors is from that of sigma, over the latter, in bins of equal counts.

    Levi, Gispan, Giladi and Fetaya, Sensors 22, 5540 (2022).
    """
    width = np.ravel(np.broadcast_to(sigma, error.shape) if error.ndim == sigma.ndim else sigma[:, None] + 0 * error)
    flat = np.ravel(error)
    terms = []
    for rows in np.array_split(np.argsort(width, kind='stable'), min(n_bins, len(width))):
        variance = np.mean(width[rows] ** 2)
        terms.append(abs(np.sqrt(variance) - np.sqrt(np.mean(flat[rows] ** 2))) / np.sqrt(variance))
    return float(np.mean(terms))


def negative_log_likelihood(sigma: Floats, squared_error: Floats, weights: Floats | None = None) -> float:
    """Return the mean of -log N(error; 0, sigma²), in nats per component.

    :param squared_error: (N,), or the mean square over the components that share a sigma.
    """
    terms = 0.5 * np.log(2 * np.pi * sigma**2) + 0.5 * squared_error / sigma**2
    return float(np.average(terms, weights=weights))


def sharpness(sigma: Floats) -> float:
    """Return the root mean square of sigma: of two calibrated uncertainties the sharper one says more."""
    return float(np.sqrt(np.mean(sigma**2)))


def metrics(sigma: Floats, errors: Floats, target: float) -> dict[str, Any]:
    """Return all figures on atoms with expected errors ``sigma`` (A,) and force errors (A, 3), eV/Å; JSON-safe.

    :param target: atomic error, as a root mean square over its components, above which an atom counts as bad.
    """
    square = np.mean(errors**2, axis=1)
    result: dict[str, Any] = {
        'spearman': rank_correlation(sigma, square),
        'auroc': area_under_roc(sigma, square > target**2),
        'auroc_target': target,
        'sharpness': sharpness(sigma),
        'rmse': np.sqrt(np.mean(square)),
        'ence': None,
        'miscalibration_area': None,
        'negative_log_likelihood': None,
        'coverage': None,
    }
    if len(sigma) and (sigma > 0).all():
        result |= {
            'ence': expected_normalised_error(sigma, errors),
            'miscalibration_area': miscalibration_area(sigma, errors),
            'negative_log_likelihood': negative_log_likelihood(sigma, square),
            'coverage': coverage(sigma, errors),
        }
    plain: dict[str, Any] = to_plain(result)
    return plain


def _probability(sigma: Floats, error: Floats) -> Floats:
    """Return the level of the narrowest central interval that holds each error, shape ``(N * components,)``."""
    width = sigma[:, None] if error.ndim > sigma.ndim else sigma
    return np.asarray(np.ravel(erf(np.abs(error) / width / np.sqrt(2))))
