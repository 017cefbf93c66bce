"""The prospective check: do intervals hold for labels that came after them?

A calibration is judged on frames that it was fitted to by itself, which says little. The random stream of an iteration
is new: its frames were drawn by chance, and their intervals were known before their labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from aiida_mlipal.science.calibration.fit import Calibration
from aiida_mlipal.science.calibration.frames import FORCE_DEGREES, compositions, largest_error
from aiida_mlipal.science.calibration.metrics import LEVELS, area_under_roc, rank_correlation
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.plain import to_plain
from aiida_mlipal.science.uncertainty import typical_maximum

__all__ = ('SIGNIFICANCE', 'check_coverage')

#: Chance of an alarm, in one check, of intervals that are as wide as they claim to be.
SIGNIFICANCE: Final = 0.05

Floats = NDArray[np.float64]


def check_coverage(
    calibration: Calibration,
    labels: Configurations,
    predictions: Evaluation,
    expected: Floats,
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Count how many new frames are within the intervals that ``calibration`` gave them; JSON-safe.

    The alarm goes off if at some level so few trajectories are covered, in this iteration or in all together, that
    intervals of that coverage would do as badly with a probability below :data:`SIGNIFICANCE`, divided by the number
    of such tests. A trajectory counts once, with the share of its frames that are covered, since its frames are not
    independent. A rejected label says nothing of an interval, and a frame that
    broke the model has none; both are only counted.

    :param labels: labelled and rejected frames of the random stream, none of which the calibration was fitted to.
    :param predictions: of the model whose uncertainty was calibrated, with these frames.
    :param expected: (F,) force errors expected of ``labels`` before they were known, of
        :meth:`Calibration.expected_errors`, eV/Å.
    :param previous: what this function returned an iteration ago.
    """
    good, known = labels.is_labelled, np.isfinite(expected)
    frames, expected = labels.take(good & known), expected[good & known]
    errors = predictions.take(predictions.index_of(frames.frame_id)).forces - frames.forces
    scaled = largest_error(errors, frames)
    largest = scaled * np.sqrt(FORCE_DEGREES) * typical_maximum(frames.n_atoms, FORCE_DEGREES)
    composition = compositions(frames).tolist()
    before = {entry['level']: entry for entry in (previous or {}).get('levels', [])}
    levels = []
    for level in LEVELS:
        bounds = calibration.bounds(level, expected, frames.n_atoms, composition)
        tested = np.isfinite(bounds)
        counts = _counts((largest <= bounds)[tested], frames.trajectory[tested])
        earlier = before.get(level, {})
        pooled = {name: counts[name] + earlier.get(f'{name}_in_all', 0) for name in counts}
        levels.append({'level': level, **counts, **{f'{name}_in_all': value for name, value in pooled.items()}})
    _judge(levels, with_earlier=bool(before))
    alarms = [entry for entry in levels if entry['is_short']]
    result = {
        'tested': True,
        'alarm': bool(alarms),
        'messages': [_message(entry) for entry in alarms],
        'n_frames': len(frames),
        'n_trajectories': len(np.unique(frames.trajectory)),
        'n_rejected': int((~good).sum()),
        'n_broken': int((good & ~known).sum()),
        'levels': levels,
        'spearman': rank_correlation(expected, scaled),
        'auroc': area_under_roc(expected, scaled > calibration.lower),
        'frames': [
            {'frame_id': frame, 'trajectory': trajectory, 'expected': error, 'largest_error': actual}
            for frame, trajectory, error, actual in zip(
                frames.frame_id.tolist(), frames.trajectory.tolist(), expected, largest, strict=True
            )
        ],
    }
    plain: dict[str, Any] = to_plain(result)
    return plain


def _counts(inside: NDArray[np.bool_], trajectory: NDArray[np.str_]) -> dict[str, float]:
    """Return how many frames and trajectories there are and are covered, the latter as sums of shares."""
    names, member = np.unique(trajectory, return_inverse=True)
    shares = [float(inside[member == index].mean()) for index in range(len(names))]
    return {
        'n_frames': len(inside),
        'covered_frames': int(inside.sum()),
        'n_trajectories': len(names),
        'covered_trajectories': sum(shares),
    }


def _judge(levels: list[dict[str, Any]], *, with_earlier: bool) -> None:
    """Add the probability of so poor a coverage to each level, and whether that is an alarm."""
    suffixes = ('', '_in_all') if with_earlier else ('',)
    tests = [(entry, suffix) for entry in levels for suffix in suffixes if entry[f'n_trajectories{suffix}']]
    for entry in levels:
        entry |= {f'p_value{suffix}': None for suffix in ('', '_in_all')}
        entry['is_short'] = False
    for entry, suffix in tests:
        covered = np.ceil(entry[f'covered_trajectories{suffix}'] - 1e-9)
        p_value = float(binom.cdf(covered, entry[f'n_trajectories{suffix}'], entry['level']))
        entry[f'p_value{suffix}'] = p_value
        entry['is_short'] |= p_value < SIGNIFICANCE / len(tests)


def _message(entry: Mapping[str, Any]) -> str:
    """Return one alarm as a sentence."""
    return (
        f'Intervals of {entry["level"]:.0%} covered {entry["covered_frames"]} of {entry["n_frames"]} new random frames '
        f'({entry["covered_trajectories"]:.3g} of {entry["n_trajectories"]} trajectories; '
        f'{entry["covered_trajectories_in_all"]:.3g} of {entry["n_trajectories_in_all"]} in all iterations): the model '
        'errs more than it is expected to.'
    )
