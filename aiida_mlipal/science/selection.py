"""Selection: which frames of a candidate pool are labelled next, and why each of the others is not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.calibration import Thresholds
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.decision import Decision
from aiida_mlipal.science.descriptors import standardise
from aiida_mlipal.science.duplicates import distinct, duplicate_scale, nearest_distance
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.filters import physical
from aiida_mlipal.science.settings import check_integer, check_number, unknown_name
from aiida_mlipal.science.strategies.greedy import QUANTUM
from aiida_mlipal.science.strategies.pick import NEED_UNCERTAINTY, STRATEGIES, Candidates, pick
from aiida_mlipal.science.uncertainty import parts_of

__all__ = ('SelectionSettings', 'decide')

#: Frames of a stopped replica: what the upper bound rejects must not starve, see :func:`decide`.
_STOPPED: Final = ('last_safe', 'first_unsafe')


@dataclass(frozen=True)
class SelectionSettings:
    """How the labels of one iteration are spent."""

    method: str = 'max_det'
    n_labels: int = 20  #: labels of one iteration, the random stream included
    random_share: float = 0.2  #: part of them that goes to the random stream, two at least
    #: Frames closer than this are one, as a fraction of the median distance of a frame to its nearest neighbour.
    duplicate_distance: float = 0.01
    min_distance_factor: float = 0.5  #: of the sum of covalent radii, below which a frame is unphysical
    lower_factor: float = 1.5  #: the trust window begins at this multiple of the force RMSE
    upper_factor: float = 10.0  #: and ends at this multiple of its beginning
    #: What uncertainty is measured by, or several joined by `+`, see :mod:`aiida_mlipal.science.uncertainty`.
    uncertainty: str = 'forces_max'
    calibration_decay: float = 0.9  #: weight of a calibration frame against one that is an iteration younger

    def __post_init__(self) -> None:
        if self.method not in STRATEGIES:
            raise ValueError(unknown_name('selection method', self.method, STRATEGIES))
        check_integer('n_labels', self.n_labels)
        check_number('random_share', self.random_share, within=(0, 0.9))
        check_number('duplicate_distance', self.duplicate_distance, within=(0, 1))
        check_number('min_distance_factor', self.min_distance_factor, within=(0, 1))
        check_number('lower_factor', self.lower_factor, above=0)
        check_number('upper_factor', self.upper_factor, above=1)
        parts_of(self.uncertainty)
        check_number('calibration_decay', self.calibration_decay, within=(0.01, 1))
        if self.n_labels <= self.n_stream:
            raise ValueError(
                f'`n_labels` is {self.n_labels} and {self.n_stream} of them go to the random stream, so that nothing '
                f'is left to train on: set `n_labels` to {self.n_stream + 1} or more, or lower `random_share`.'
            )

    @property
    def n_stream(self) -> int:
        """Frames of the random stream in one iteration: one for calibration and one for testing at least."""
        return max(2, round(self.random_share * self.n_labels))

    @property
    def needs_committee(self) -> bool:
        """Whether the method ranks by the spread of a committee."""
        return self.method in NEED_UNCERTAINTY


class _Sheet:
    """The columns of a decision while it is made: a row is closed as soon as it has a class."""

    def __init__(self, n_rows: int) -> None:
        self.klass = np.full(n_rows, '', dtype=object)
        self.reason = np.full(n_rows, '', dtype=object)
        self.rank = np.full(n_rows, -1, dtype=np.int64)
        self.open = np.ones(n_rows, dtype=bool)
        self.n_taken = 0

    def close(self, row: int, klass: str, reason: str) -> None:
        self.klass[row], self.reason[row], self.open[row] = klass, reason, False

    def take(self, row: int, klass: str, reason: str) -> None:
        self.close(row, klass, reason)
        self.rank[row] = self.n_taken
        self.n_taken += 1


def _require_uncertainty(uncertain: bool, settings: SelectionSettings, thresholds: Thresholds | None) -> None:
    """Refuse a model without uncertainty with a method or a trust window that need one."""
    if not uncertain and (settings.needs_committee or thresholds is not None):
        what = f'the method `{settings.method}`' if settings.needs_committee else 'a trust window'
        raise ValueError(
            f'{what} ranks frames by the spread of a committee or the uncertainty of a model, but the pool was '
            'evaluated with a committee of 1 that has none: train 2 or more members (4 for a calibrated spread) or one '
            'with `uncertainty: llpr` or `heads`, or use method `max_det`, `farthest_point` or `random` without '
            'thresholds.'
        )


def _close_stream(
    pool: Configurations, sheet: _Sheet, by_identity: NDArray[np.int64], known: set[str], budget: int | None
) -> None:
    """Take the random stream, in the order of the identities, and close whatever is labelled already."""
    stream = pool.has_role('calibration', 'test')
    seen: set[str] = set()
    for row in [*by_identity[stream[by_identity]].tolist(), *by_identity[~stream[by_identity]].tolist()]:
        frame = str(pool.frame_id[row])
        if frame in known:
            sheet.close(row, 'known', 'It was labelled in an earlier iteration.')
        elif frame in seen:
            sheet.close(row, 'known', 'The pool holds the same frame, to the last bit, in another row.')
        elif stream[row] and budget is not None and sheet.n_taken >= budget:
            sheet.close(row, 'stream', f'It is of the random stream, but the budget left only {budget} labels.')
        elif stream[row]:
            sheet.take(row, 'stream', f'It was drawn at random for {pool.role[row]}, before any filter.')
        seen.add(frame)


def _close_unphysical(pool: Configurations, sheet: _Sheet, finite: NDArray[np.bool_], factor: float) -> None:
    """Close what cannot be a structure, and what the model has no finite prediction for."""
    rows = np.flatnonzero(sheet.open).tolist()
    for row, reason in zip(rows, physical(pool.take(rows), factor).tolist(), strict=True):
        if reason:
            sheet.close(row, 'unphysical', f'It cannot be a structure: {reason}.')
        elif not finite[row]:
            sheet.close(row, 'unphysical', 'What the model says of it is not finite.')


def _close_window(
    pool: Configurations, sheet: _Sheet, calibrated: NDArray[np.float64], thresholds: Thresholds | None
) -> None:
    """Close what the model is sure of, and what is too far from all it knows to be worth a label."""
    if thresholds is None:
        return
    for row in np.flatnonzero(sheet.open).tolist():
        value = float(calibrated[row])
        if value < thresholds.lower:
            text = f'Its expected force error of {value:.3f} eV/Å is below the trust window ({thresholds.lower:.3f}).'
            sheet.close(row, 'accurate', text)
        elif value > thresholds.upper and pool.origin[row] not in _STOPPED:
            text = f'Its expected force error of {value:.3f} eV/Å is above the trust window ({thresholds.upper:.3f}).'
            sheet.close(row, 'failed', text)


def _close_agreed(pool: Configurations, sheet: _Sheet, agreed: Mapping[str, str]) -> None:
    """Close what a cheap level of theory and the model agree upon."""
    for row in np.flatnonzero(sheet.open).tolist():
        reason = agreed.get(str(pool.frame_id[row]))
        if reason is not None:
            sheet.close(row, 'agreed', reason)


def _close_duplicates(
    pool: Configurations,
    sheet: _Sheet,
    by_identity: NDArray[np.int64],
    calibrated: NDArray[np.float64],
    scaled: tuple[NDArray[np.float64], NDArray[np.float64]],
    distance: NDArray[np.float64],
    to_stream: NDArray[np.float64],
    fraction: float,
) -> None:
    """Close repeats of the training set, of the random stream (a test frame must stay unseen) and of candidates."""
    table, reference = scaled
    rows = by_identity[sheet.open[by_identity]]
    threshold = fraction * duplicate_scale(table, reference, rows)
    stream = by_identity[(sheet.klass == 'stream')[by_identity]]
    # Of a group of duplicates the most uncertain stays.
    urgency = np.round(np.nan_to_num(calibrated[rows]) / QUANTUM)
    rows = rows[np.argsort(-urgency, kind='stable')]
    rows = np.concatenate((stream, rows))
    owner = rows[distinct(table[rows], threshold)]
    for row, first in zip(rows.tolist(), owner.tolist(), strict=True):
        if not sheet.open[row]:
            continue
        if distance[row] <= threshold:
            sheet.close(row, 'duplicate', 'A training frame has the same descriptors.')
        elif to_stream[row] <= threshold:
            text = 'A frame of an earlier random stream has the same descriptors and must stay unseen.'
            sheet.close(row, 'duplicate', text)
        elif first != row and sheet.klass[first] == 'stream':
            text = f'Frame {pool.frame_id[first]} of the random stream has the same descriptors and must stay unseen.'
            sheet.close(row, 'duplicate', text)
        elif first != row:
            sheet.close(row, 'duplicate', f'Candidate {pool.frame_id[first]} has the same descriptors.')


def decide(
    pool: Configurations,
    evaluation: Evaluation,
    reference_descriptors: NDArray[np.float64],
    *,
    settings: SelectionSettings,
    seed: int,
    iteration: int,
    thresholds: Thresholds | None,
    uncertainty: NDArray[np.float64] | None = None,
    calibrated: NDArray[np.float64] | None = None,
    max_labels: int | None = None,
    known_frame_ids: Collection[str] = (),
    agreed: Mapping[str, str] | None = None,
    stream_descriptors: NDArray[np.float64] | None = None,
) -> Decision:
    """Give every frame of the pool a class, a reason and, if it is to be labelled, a rank.

    In this order: the random stream is taken; frames labelled before, unphysical frames and those outside the trust
    window are closed, and those that a cheap level agrees upon; repeats go (see
    :data:`aiida_mlipal.science.decision.CLASSES`); the method picks from the rest until ``settings.n_labels`` are
    taken. The last safe and the first unsafe frame of a stopped replica stay candidates above the window: they show the
    model the edge of what it can do, and without them a model that explodes everywhere would never receive the frames
    that mend it.

    The order of the pool does not matter, nor do the last digits of its numbers.

    :param evaluation: of the pool, by the committee that explored it; further rows are ignored.
    :param reference_descriptors: (N, D) of the training set, by the same model, without isolated atoms.
    :param thresholds: the trust window; None (iteration 0, or a single model) leaves the window out.
    :param uncertainty: (F,) of the frames of the pool, by the measure ``settings.uncertainty``; the largest spread of
        forces of each, if not given.
    :param calibrated: (F,) the force errors to expect of them, eV/Å, on which the window stands; None without one.
    :param max_labels: the most labels that may be taken in all, the random stream first.
    :param known_frame_ids: frames that have a label, accepted or rejected.
    :param agreed: why frames need no label, by identity, see :func:`aiida_mlipal.science.prescreen.agreements`; the
        random stream is taken all the same.
    :param stream_descriptors: (M, D) of the random streams of earlier iterations, by the same model.
    :raises ValueError: for a single model with a method or window that need a committee, or a window without calibrated
        values.
    """
    if thresholds is not None and calibrated is None:
        raise ValueError('a trust window needs `calibrated`, the force errors to expect of the frames of the pool.')
    if max_labels is not None:
        check_integer('max_labels', max_labels, at_least=0)
    sheet = _Sheet(len(pool))
    distance, gain = np.full(len(pool), np.nan), np.full(len(pool), np.nan)
    evaluation = evaluation.take(evaluation.index_of(pool.frame_id))
    uncertainty = evaluation.max_forces_std if uncertainty is None else uncertainty
    calibrated = uncertainty if calibrated is None else calibrated
    if len(pool):
        uncertain = evaluation.member_energy.shape[1] > 1 or bool(np.isfinite(uncertainty).any())
        _require_uncertainty(uncertain, settings, thresholds)
        by_identity = np.lexsort((pool.step, pool.trajectory, pool.frame_id))
        finite = np.isfinite(evaluation.descriptors).all(axis=1) & np.isfinite(evaluation.energy)
        if uncertain:
            finite &= np.isfinite(uncertainty)

        _close_stream(pool, sheet, by_identity, {str(frame) for frame in known_frame_ids}, max_labels)
        _close_unphysical(pool, sheet, finite, settings.min_distance_factor)
        _close_window(pool, sheet, calibrated, thresholds)
        _close_agreed(pool, sheet, agreed or {})

        descriptors = np.where(finite[:, None], evaluation.descriptors, 0.0)
        sound = finite & (sheet.klass != 'unphysical')
        given = (reference_descriptors, () if stream_descriptors is None else stream_descriptors)
        trained, unseen = (np.asarray(rows, dtype=float) if len(rows) else descriptors[:0] for rows in given)
        unseen = unseen[np.isfinite(unseen).all(axis=1)]  # a random frame may be one that breaks the model
        table, both = standardise(descriptors, np.concatenate((trained, unseen)) if len(unseen) else trained, sound)
        reference, unseen = both[: len(trained)], both[len(trained) :]
        distance, to_stream = (np.where(finite, nearest_distance(table, rows), np.nan) for rows in (reference, unseen))
        scaled, fraction = (table, reference), settings.duplicate_distance
        _close_duplicates(pool, sheet, by_identity, calibrated, scaled, distance, to_stream, fraction)

        rows = by_identity[sheet.open[by_identity]]
        limit = settings.n_labels if max_labels is None else min(settings.n_labels, max_labels)
        n_picks = min(max(limit - sheet.n_taken, 0), len(rows))
        candidates = Candidates(
            frame_ids=pool.frame_id[rows],
            table=table[rows],
            reference=reference,
            uncertainty=calibrated[rows] if uncertain else None,
        )
        picks = pick(settings.method, candidates, n_picks, [seed, iteration])
        gain[rows] = picks.gain
        for row in rows[picks.order].tolist():
            score = '' if np.isnan(gain[row]) else f' ({gain[row]:.4g})'
            sheet.take(row, 'selected', f'{picks.sentence}{score}.')
        for row in np.flatnonzero(sheet.open).tolist():
            sheet.close(row, 'candidate', f'It is worth a label, but `{settings.method}` preferred {n_picks} others.')
    return Decision(
        frame_id=pool.frame_id,
        uncertainty=uncertainty,
        calibrated=calibrated,
        distance=distance,
        gain=gain,
        klass=sheet.klass,
        rank=sheet.rank,
        reason=sheet.reason,
        method=settings.method,
        seed=seed,
        iteration=iteration,
        thresholds={} if thresholds is None else thresholds.to_dict(),
    )
