"""Calibration: from a committee's spread to an expected force error, and from that to the trust window.

Committees rank errors well and are several times overconfident, so the spread is scaled by one number, fitted on the
calibration half of the random stream, which no model has been trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.plain import to_plain
from aiida_mlipal.science.settings import check_number, from_dict

__all__ = ('Calibration', 'Thresholds', 'calibrate')

_MIN_MEMBERS_FOR_CORRECTION: Final = 4


@dataclass(frozen=True)
class Thresholds:
    """The trust window on the expected force error of a frame (:meth:`Calibration.expected_errors`), eV/Å."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        check_number('lower', self.lower, above=0)
        check_number('upper', self.upper, above=self.lower)

    def to_dict(self) -> dict[str, float]:
        """Return the thresholds as a plain dictionary."""
        return {key: float(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Thresholds:
        """Read what :meth:`to_dict` wrote."""
        return from_dict(cls, mapping)


@dataclass(frozen=True)
class Calibration:
    """What the calibration frames say about a committee's spread."""

    alpha: float  #: factor on ``forces_std``
    force_rmse: float  #: per Cartesian component, eV/Å
    spearman: float | None  #: rank correlation of atomic spread and atomic error; None if either is constant
    coverage: float  #: share of force components with an error below alpha * spread; 0.683 for a normal law
    n_frames: int
    n_atoms: int
    n_members: int
    lower: float  #: eV/Å
    upper: float  #: eV/Å
    correction: str  #: what was done about the finite size of the committee

    @property
    def thresholds(self) -> Thresholds:
        """The trust window."""
        return Thresholds(lower=self.lower, upper=self.upper)

    def expected_errors(self, uncertainty: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the force errors to expect of frames with an ``uncertainty``, eV/Å, shape ``(F,)``; monotone."""
        return self.alpha * uncertainty

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON-safe values."""
        result: dict[str, Any] = to_plain(asdict(self))
        return result

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_dict` wrote."""
        return from_dict(cls, mapping)


def _scale(mean_square_error: float, mean_variance: float, n_members: int) -> tuple[float, str]:
    """Return alpha and what was done about the finite committee.

    Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), fit alpha² = -1/M + (M-3)/(M-1) <err²/s²>: the error of a mean
    of M members holds 1/M of their variance, and 1/s² is too large on average. Here alpha² is a ratio of means,
    <err²>/<s²>, which the second effect does not touch (the sample variance is unbiased) and which a few atoms with a
    tiny spread cannot dominate; the first is subtracted, from the four members on for which the paper's form exists.
    """
    ratio = mean_square_error / mean_variance
    if n_members == 1:
        return float(np.sqrt(ratio)), 'none: the uncertainty is that of one model, not a spread of members'
    if n_members < _MIN_MEMBERS_FOR_CORRECTION:
        return float(np.sqrt(ratio)), f'none: {n_members} members, the finite-committee correction needs 4 or more'
    if ratio <= 2 / n_members:
        return float(np.sqrt(ratio)), 'none: the errors are not larger than what the spread of the mean explains'
    return float(np.sqrt(ratio - 1 / n_members)), f'1/{n_members} subtracted from alpha squared (Imbalzano 2021)'


def calibrate(
    dataset: Configurations, evaluation: Evaluation, *, lower_factor: float, upper_factor: float, n_members: int
) -> Calibration | None:
    """Fit the scale of a committee's spread and the trust window.

    Only frames with role ``calibration``, an accepted label and an evaluation count.

    :param lower_factor: the window begins at this multiple of the force RMSE.
    :param upper_factor: it ends at this multiple of its beginning.
    :returns: None without such frames, or for a single model without uncertainty: then there is nothing to calibrate
        and no window.
    :raises ValueError: if all members agree to the last bit.
    """
    check_number('lower_factor', lower_factor, above=0)
    check_number('upper_factor', upper_factor, above=1)
    usable = dataset.has_role('calibration') & dataset.is_labelled & np.isin(dataset.frame_id, evaluation.frame_id)
    if not usable.any() or (n_members == 1 and np.isnan(evaluation.forces_std).all()):
        return None
    labels = dataset.take(usable)
    predictions = evaluation.take(evaluation.index_of(labels.frame_id))
    errors = predictions.forces - labels.forces
    spread = predictions.forces_std
    if not (np.isfinite(errors).all() and np.isfinite(spread).all()):
        raise ValueError('the calibration frames hold forces or spreads that are not finite: look at their evaluation.')
    mean_variance = float(np.mean(spread**2))
    if mean_variance <= 0:
        raise ValueError(
            f'the {n_members} members agree to the last bit on all {len(labels)} calibration frames, so their spread '
            'says nothing: were they trained with different seeds?'
        )
    mean_square = float(np.mean(errors**2))
    if mean_square <= 0:
        raise ValueError('the predictions equal the labels of the calibration frames: were they trained on?')
    alpha, correction = _scale(mean_square, mean_variance, n_members)
    force_rmse = float(np.sqrt(mean_square))
    atomic_error = np.sqrt(np.mean(errors**2, axis=1))
    ranked = len(spread) > 2 and np.ptp(spread) > 0 and np.ptp(atomic_error) > 0
    lower = lower_factor * force_rmse
    return Calibration(
        alpha=alpha,
        force_rmse=force_rmse,
        spearman=float(spearmanr(spread, atomic_error).statistic) if ranked else None,
        coverage=float(np.mean(np.abs(errors) <= alpha * spread[:, None])),
        n_frames=len(labels),
        n_atoms=len(spread),
        n_members=n_members,
        lower=lower,
        upper=upper_factor * lower,
        correction=correction,
    )
