"""The rules of a selection, one by one: each closes rows of a pool with a class and a reason, and leaves the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.calibration import Thresholds
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.descriptors import standardise
from aiida_mlipal.science.duplicates import distinct, duplicate_threshold, nearest_distance
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.filters import physical
from aiida_mlipal.science.plausibility import Bounds, implausible
from aiida_mlipal.science.strategies.greedy import QUANTUM

__all__ = ('Sheet', 'Tables')

#: Frames of a stopped replica: what the upper bound rejects must not starve, see :func:`.selection.decide`.
_STOPPED: Final = ('last_safe', 'first_unsafe')


@dataclass(frozen=True, eq=False)
class Tables:
    """Descriptors on one grid: of the pool, of the training set, and of what must not be trained on (again)."""

    pool: NDArray[np.float64]
    trained: NDArray[np.float64]
    stream: NDArray[np.float64]  #: random streams of earlier iterations
    spent: NDArray[np.float64]  #: frames whose label was rejected, or that are withheld

    @classmethod
    def scaled(cls, pool: NDArray[np.float64], sound: NDArray[np.bool_], *known: NDArray[np.float64] | None) -> Tables:
        """Return all tables scaled together; rows that are not finite are left out, but not those of the training set.

        :param sound: (F,) which rows of the pool count in the scale.
        """
        given = [np.asarray(rows, float) if rows is not None and len(rows) else pool[:0] for rows in known]
        given[1:] = [rows[_all_finite(rows)] for rows in given[1:]]  # one may have broken the model
        finite = np.where(_all_finite(pool)[:, None], pool, 0.0)
        if all(rows.ndim == 2 and rows.shape[1] == pool.shape[1] for rows in given):
            joined = np.concatenate(given)
        else:
            joined = given[0]  # of another model: what scales them says so
        table, rest = standardise(finite, joined, sound)
        trained, stream, spent = np.split(rest, np.cumsum([len(rows) for rows in given])[:2])
        return cls(table, trained, stream, spent)


class Sheet:
    """The columns of a decision while it is made: a row is closed as soon as it has a class."""

    def __init__(self, pool: Configurations, calibrated: NDArray[np.float64]) -> None:
        self.pool = pool
        self.calibrated = calibrated
        self.by_identity = np.lexsort((pool.step, pool.trajectory, pool.frame_id))
        self.klass = np.full(len(pool), '', dtype=object)
        self.reason = np.full(len(pool), '', dtype=object)
        self.rank = np.full(len(pool), -1, dtype=np.int64)
        self.open = np.ones(len(pool), dtype=bool)
        self.n_taken = 0
        self.notes: list[str] = []

    def close(self, row: int, klass: str, reason: str) -> None:
        """Give a row its class."""
        self.klass[row], self.reason[row], self.open[row] = klass, reason, False

    def take(self, row: int, klass: str, reason: str) -> None:
        """Give a row its class and the next rank."""
        self.close(row, klass, reason)
        self.rank[row] = self.n_taken
        self.n_taken += 1

    def rows(self) -> NDArray[np.int64]:
        """Return the open rows in the order of the identities."""
        rows: NDArray[np.int64] = self.by_identity[self.open[self.by_identity]]
        return rows

    def take_stream(self, known: Mapping[str, str], budget: int | None) -> None:
        """Take the random stream, in the order of the identities, and close whatever is labelled already.

        :param known: what became of frames that were labelled, by identity.
        """
        stream = self.pool.has_role('calibration', 'test')
        drawn = stream[self.by_identity]
        seen: set[str] = set()
        for row in [*self.by_identity[drawn].tolist(), *self.by_identity[~drawn].tolist()]:
            frame = str(self.pool.frame_id[row])
            if frame in known:
                self.close(row, 'known', f'It was labelled before ({known[frame]}).')
            elif frame in seen:
                self.close(row, 'known', 'The pool holds the same frame, to the last bit, in another row.')
            elif stream[row] and budget is not None and self.n_taken >= budget:
                self.close(row, 'stream', f'It is of the random stream, but the budget left only {budget} labels.')
            elif stream[row]:
                self.take(row, 'stream', f'It was drawn at random for {self.pool.role[row]}, before any filter.')
            seen.add(frame)

    def close_unphysical(
        self, evaluation: Evaluation, known: Configurations, bounds: Bounds, min_distance_factor: float
    ) -> None:
        """Close what cannot be a structure, and what no label would be kept of."""
        rows = self.rows()
        self._close_all(rows, 'It cannot be a structure', physical(self.pool.take(rows), min_distance_factor))
        rows = self.rows()
        reasons = implausible(self.pool.take(rows), _largest_forces(evaluation)[rows], known, bounds)
        self._close_all(rows, 'It is not worth a label', reasons)

    def _close_all(self, rows: NDArray[np.int64], text: str, reasons: NDArray[np.str_]) -> None:
        """Close those rows as unphysical that there is a reason for."""
        for row, reason in zip(rows.tolist(), reasons.tolist(), strict=True):
            if reason:
                self.close(row, 'unphysical', f'{text}: {reason}.')

    def close_broken(self, values: Mapping[str, NDArray[np.bool_]]) -> None:
        """Close what the model has no finite prediction for.

        :param values: which rows have a finite value, by its name.
        """
        for row in np.flatnonzero(self.open).tolist():
            missing = [name for name, finite in values.items() if not finite[row]]
            if missing:
                self.close(row, 'failed', f'What the model says of it is not finite: {", ".join(missing)}.')

    def close_window(self, thresholds: Thresholds | None, n_wanted: int, floor: float) -> dict[str, float]:
        """Close what the model is sure of, and what is too far from all it knows to be worth a label.

        If fewer than ``n_wanted`` rows are in the window, its lower end falls until so many are, but not below
        ``floor`` times what it was. Returns the thresholds that were applied.
        """
        if thresholds is None:
            return {}
        lower, applied = thresholds.lower, thresholds.to_dict()
        rows = np.flatnonzero(self.open)
        above = (self.calibrated[rows] > thresholds.upper) & ~np.isin(self.pool.origin[rows], _STOPPED)
        values = np.sort(self.calibrated[rows[~above]])[::-1]
        n_inside = int((values >= lower).sum())
        fallen = (
            max(floor * lower, float(values[min(n_wanted, len(values)) - 1])) if n_wanted and len(values) else lower
        )
        if (values >= fallen).sum() > n_inside:
            lower = fallen
            applied.update(lower=lower, lower_calibrated=thresholds.lower)
            self.notes.append(
                f'The lower end of the trust window fell from {thresholds.lower:.3f} to {lower:.3f} eV/Å: only '
                f'{n_inside} candidates were above it, for {n_wanted} labels.'
            )
        for row, beyond in zip(rows.tolist(), above.tolist(), strict=True):
            value = float(self.calibrated[row])
            text = f'Its expected force error of {value:.3f} eV/Å is'
            if value < lower:
                self.close(row, 'accurate', f'{text} below the trust window ({lower:.3f}).')
            elif beyond:
                self.close(row, 'failed', f'{text} above the trust window ({thresholds.upper:.3f}).')
        return applied

    def close_agreed(self, agreed: Mapping[str, str]) -> None:
        """Close what a cheap level of theory and the model agree upon."""
        for row in np.flatnonzero(self.open).tolist():
            reason = agreed.get(str(self.pool.frame_id[row]))
            if reason is not None:
                self.close(row, 'agreed', reason)

    def close_duplicates(self, tables: Tables, distance: NDArray[np.float64], fraction: float) -> None:
        """Close repeats of what is labelled, of the random stream (a test frame must stay unseen), of candidates."""
        rows = self.rows()
        threshold = duplicate_threshold(tables.pool, tables.trained, rows, fraction)
        stream = self.by_identity[(self.klass == 'stream')[self.by_identity]]
        # Of a group of duplicates the most uncertain stays.
        urgency = np.round(np.nan_to_num(self.calibrated[rows]) / QUANTUM)
        rows = np.concatenate((stream, rows[np.argsort(-urgency, kind='stable')]))
        owner = rows[distinct(tables.pool[rows], threshold)]
        to_stream, to_spent = (nearest_distance(tables.pool, known) for known in (tables.stream, tables.spent))
        for row, first in zip(rows.tolist(), owner.tolist(), strict=True):
            if not self.open[row]:
                continue
            text = ''
            if distance[row] <= threshold:
                text = 'A training frame has the same descriptors.'
            elif to_stream[row] <= threshold:
                text = 'A frame of an earlier random stream has the same descriptors and must stay unseen.'
            elif to_spent[row] <= threshold:
                text = 'A frame whose label was rejected, or that is withheld, has the same descriptors.'
            elif first != row and self.klass[first] == 'stream':
                text = (
                    f'Frame {self.pool.frame_id[first]} of the random stream has the same descriptors and must stay '
                    'unseen.'
                )
            elif first != row:
                text = f'Candidate {self.pool.frame_id[first]} has the same descriptors.'
            if text:
                self.close(row, 'duplicate', text)


def _all_finite(table: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows are finite, shape ``(N,)``."""
    mask: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(table), axis=1)
    return mask


def _largest_forces(evaluation: Evaluation) -> NDArray[np.float64]:
    """Return the largest predicted force of each frame, eV/Å, shape ``(F,)``."""
    norms = np.linalg.norm(evaluation.forces, axis=1)
    largest: NDArray[np.float64] = np.maximum.reduceat(norms, evaluation.offsets[:-1])
    return largest
