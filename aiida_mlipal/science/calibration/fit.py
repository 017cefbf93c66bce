"""Fit a calibration, and what it says of new frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.calibration.conformal import Intervals, fit_intervals
from aiida_mlipal.science.calibration.frames import (
    FORCE_DEGREES,
    CalibrationFrames,
    calibration_frames,
    compositions,
    largest_error,
)
from aiida_mlipal.science.calibration.maps import ErrorMap, finite_committee, fit_map, fit_scale
from aiida_mlipal.science.calibration.metrics import area_under_roc, metrics, rank_correlation
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.plain import to_plain
from aiida_mlipal.science.settings import check_number, from_dict
from aiida_mlipal.science.uncertainty import size_factor, typical_maximum

__all__ = ('Calibration', 'Thresholds', 'calibrate')

Floats = NDArray[np.float64]
_FORCES = ('forces_max', 'forces_mean')


@dataclass(frozen=True)
class Thresholds:
    """The trust window on the expected force error of a frame (:meth:`Calibration.expected_errors`), eV/Å."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        check_number('lower', self.lower, above=0)
        check_number('upper', self.upper, above=0)
        if not self.lower < self.upper:
            raise ValueError(
                f'the trust window has its lower end ({self.lower:g} eV/Å) not below its upper end ({self.upper:g} '
                'eV/Å), so no frame could be in it: give a smaller lower end, or a larger upper one.'
            )

    def to_dict(self) -> dict[str, float]:
        """Return the thresholds as a plain dictionary."""
        return {key: float(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Thresholds:
        """Read what :meth:`to_dict` wrote."""
        return from_dict(cls, mapping)


@dataclass(frozen=True)
class Calibration:
    """What the calibration frames say about an uncertainty."""

    uncertainty: str  #: the measure, see :mod:`aiida_mlipal.science.uncertainty`
    alpha: float  #: expected force error per component over uncertainty, at the pivot
    power: float  #: of the map from one to the other; 1 is a scale
    pivot: float  #: in units of the measure
    scales: dict[str, float | None]  #: factor on the spread of forces, of the energy per atom and of the stress
    force_rmse: float  #: per Cartesian component, eV/Å
    lower: float  #: of the trust window, eV/Å
    upper: float  #: eV/Å
    n_frames: int
    n_broken: int  #: further ones, of which the model says nothing finite; no interval holds them
    n_trajectories: int
    n_atoms: int
    n_members: int
    correction: str  #: what was done about the finite size of the committee
    form: str  #: why the map is a scale or a power law
    intervals: Intervals
    metrics: dict[str, Any]  #: of the calibration frames themselves, see :func:`.metrics.metrics`

    @property
    def thresholds(self) -> Thresholds:
        """The trust window."""
        return Thresholds(lower=self.lower, upper=self.upper)

    @property
    def error_map(self) -> ErrorMap:
        """From the uncertainty of an atom to the force error to expect of it, per component, eV/Å."""
        return ErrorMap(self.alpha, self.power, self.pivot)

    def expected_errors(self, uncertainty: Floats, n_atoms: NDArray[np.int64]) -> Floats:
        """Return the force error to expect of frames, per component, eV/Å, shape ``(F,)``.

        Monotone in ``uncertainty``, and the same for a small and a large frame whose atoms are equally uncertain.

        :param uncertainty: (F,), by the measure that was calibrated.
        """
        return self.error_map(uncertainty / size_factor(self.uncertainty, n_atoms, self.n_members))

    def bounds(self, level: float, expected: Floats, n_atoms: NDArray[np.int64], composition: Sequence[str]) -> Floats:
        """Return what the largest force error of a frame stays below with probability ``level``, eV/Å, shape ``(F,)``.

        The error of an atom is the norm of the difference of the vectors. Infinite where the calibration frames are
        too few for a bound.

        :param expected: (F,), of :meth:`expected_errors`.
        :param composition: (F,), of :func:`aiida_mlipal.science.calibration.frames.compositions`.
        """
        size = np.sqrt(FORCE_DEGREES) * typical_maximum(n_atoms, FORCE_DEGREES)
        bounds: Floats = self.intervals.factors(level, composition) * size * expected
        return bounds

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON-safe values."""
        result: dict[str, Any] = to_plain(asdict(self))
        return result

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_dict` wrote."""
        return from_dict(cls, {**mapping, 'intervals': Intervals.from_dict(mapping['intervals'])})


def calibrate(
    dataset: Configurations,
    evaluation: Evaluation,
    *,
    lower_factor: float,
    upper_factor: float,
    uncertainty: str = 'forces_max',
    decay: float = 1.0,
) -> Calibration | None:
    """Fit the map from uncertainties to errors, the intervals, and the trust window.

    Only frames with role ``calibration``, an accepted label and an evaluation count.

    :param lower_factor: the window begins at this multiple of the force RMSE.
    :param upper_factor: it ends at this multiple of its beginning.
    :param uncertainty: the measure, see :func:`aiida_mlipal.science.uncertainty.measure`.
    :param decay: weight of a frame against one that is an iteration younger.
    :returns: None without such frames, or for a single model without uncertainty: then there is nothing to calibrate
        and no window.
    :raises ValueError: if all members agree to the last bit, or the measure says nothing of any frame.
    """
    check_number('lower_factor', lower_factor, above=0)
    check_number('upper_factor', upper_factor, above=1)
    every = calibration_frames(dataset, evaluation, uncertainty, decay)
    n_members = evaluation.member_energy.shape[1]
    if len(every) == 0 or (n_members == 1 and np.isnan(every.uncertainty.per_atom).all()):
        return None
    sound = every.is_finite
    frames = every.take(sound)
    labels, sigma, weights = frames.labels, frames.uncertainty.per_atom, frames.atom_weights
    square = np.mean(frames.errors**2, axis=1)
    _require_sound(frames, square, n_members)
    trajectory = np.repeat(labels.trajectory, labels.n_atoms)
    found, form = fit_map(sigma, square, weights, trajectory, len(labels))
    alpha, correction = found.alpha, 'none: the power law is fitted to the errors of the mean itself'
    if found.power == 1 and uncertainty in _FORCES:
        alpha, correction = finite_committee(found.alpha**2, n_members)
    elif found.power == 1:
        correction = f'none: `{uncertainty}` is not the spread of the forces'
    error_map = ErrorMap(alpha, found.power, found.pivot)
    expected = error_map(frames.frame_uncertainty(uncertainty))
    actual = largest_error(frames.errors, labels)
    scores = np.full(len(every), np.inf)  # what the model says nothing of is within no interval
    with np.errstate(divide='ignore'):
        scores[sound] = actual / expected
    force_rmse = float(np.sqrt(np.average(square, weights=weights)))
    lower = lower_factor * force_rmse
    figures = metrics(error_map(sigma), frames.errors, lower)
    of_frames = {'spearman': rank_correlation(expected, actual), 'auroc': area_under_roc(expected, actual > lower)}
    return Calibration(
        uncertainty=uncertainty,
        alpha=alpha,
        power=found.power,
        pivot=found.pivot,
        scales=_scales(frames, n_members),
        force_rmse=force_rmse,
        lower=lower,
        upper=upper_factor * lower,
        n_frames=len(labels),
        n_broken=int((~sound).sum()),
        n_trajectories=len(np.unique(labels.trajectory)),
        n_atoms=len(sigma),
        n_members=n_members,
        correction=correction,
        form=form,
        intervals=fit_intervals(scores, every.labels.trajectory, every.weights, compositions(every.labels)),
        metrics={**figures, 'frames': of_frames},
    )


def _require_sound(frames: CalibrationFrames, square: Floats, n_members: int) -> None:
    """Refuse what no scale can be fitted to."""
    if len(frames) == 0:
        raise ValueError(
            'the evaluation and labels of the calibration frames hold nothing finite: look at their evaluation, or '
            'choose another measure `uncertainty` (that of the stress needs periodic frames and a committee, distances '
            'need training frames).'
        )
    if not frames.uncertainty.per_atom.any():
        raise ValueError(
            f'the {n_members} members agree to the last bit on all {len(frames)} calibration frames, so their spread '
            'says nothing: were they trained with different seeds?'
        )
    if not square.any():
        raise ValueError('the predictions equal the labels of the calibration frames: were they trained on?')


def _scales(frames: CalibrationFrames, n_members: int) -> dict[str, float | None]:
    """Return the factor on the spread of each quantity at which mean squared errors and variances agree."""
    labels, predictions, weights = frames.labels, frames.predictions, frames.weights
    per_atom = 1 / labels.n_atoms
    with_stress = np.isfinite(predictions.stress_std) & np.isfinite(labels.stress).all(axis=1)
    columns = {
        'forces': (frames.errors, predictions.forces_std[:, None], frames.atom_weights),
        'energy_per_atom': (
            ((predictions.energy - labels.energy) * per_atom)[:, None],
            (predictions.energy_std * per_atom)[:, None],
            weights,
        ),
        'stress': (
            (predictions.stress - labels.stress)[with_stress],
            predictions.stress_std[with_stress, None],
            weights[with_stress],
        ),
    }
    scales: dict[str, float | None] = {}
    for name, (error, spread, weight) in columns.items():
        known = len(error) > 0 and np.isfinite(spread).all() and bool(spread.any())
        if not known:
            scales[name] = None
            continue
        found = fit_scale(spread[:, 0], np.mean(error**2, axis=1), weight)
        scales[name] = finite_committee(found.alpha**2, n_members)[0]
    return scales
