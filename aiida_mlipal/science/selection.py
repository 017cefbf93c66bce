"""Selection: which frames of a candidate pool are labelled next, and why each of the others is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.calibration import Thresholds
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.decision import Decision
from aiida_mlipal.science.duplicates import nearest_distance
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.plausibility import Bounds
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import check_integer
from aiida_mlipal.science.sheet import Sheet, Tables
from aiida_mlipal.science.strategies.pick import Candidates, pick
from aiida_mlipal.science.strategies.quotas import Quota, make_quota

__all__ = ('decide',)


def _require_uncertainty(uncertain: bool, settings: SelectionSettings, thresholds: Thresholds | None) -> None:
    """Refuse a model without uncertainty with a method or a trust window that need one."""
    if not uncertain and (settings.committee_method or thresholds is not None):
        what = f'the method `{settings.committee_method}`' if settings.committee_method else 'a trust window'
        raise ValueError(
            f'{what} ranks frames by the spread of a committee or the uncertainty of a model, but the pool was '
            'evaluated with a committee of 1 that has none: train 2 or more members (4 for a calibrated spread) or one '
            'with `uncertainty: llpr` or `heads`, or use method `max_det`, `farthest_point`, `lcmd`, `entropy_gain` or '
            '`random` without thresholds.'
        )


def _groups(pool: Configurations, kind: str) -> NDArray[np.str_]:
    """Return the trajectory, exploration plan or chemical formula of each frame."""
    if kind == 'composition':
        formulas = np.empty(len(pool), dtype=object)
        for formula, rows in pool.group_by_composition().items():
            formulas[rows] = formula
        return formulas.astype(str)
    return pool.trajectory if kind == 'trajectory' else pool.origin


def _pick(
    sheet: Sheet,
    candidates: Candidates,
    rows: NDArray[np.int64],
    settings: SelectionSettings,
    method: str,
    n_wanted: int,
    seed: list[int],
) -> NDArray[np.float64]:
    """Take rows by the method, close all others, and return the gains of ``rows``."""
    pool = sheet.pool.take(rows)
    quotas = [make_quota(kind, _groups(pool, kind), share, n_wanted) for kind, share in sorted(settings.quotas.items())]
    picks = pick(method, candidates, n_wanted, seed, n_random=settings.n_random_picks, quotas=quotas)
    for place, row in enumerate(picks.order.tolist()):
        gain = picks.gain[row]
        if place < picks.n_random:
            text = (
                f'It was drawn at random from the candidates, as {settings.random_picks:.0%} of the labels always are.'
            )
        else:
            text = picks.sentence + ('.' if np.isnan(gain) else f' ({gain:.4g}).')
        sheet.take(int(rows[row]), 'selected', text)
    full = _full_groups(quotas, picks.order)
    for row in np.flatnonzero(sheet.open[rows]).tolist():
        forbidden = [f'{quota.kind} `{quota.bucket[row]}`' for quota, names in full if quota.bucket[row] in names]
        if forbidden:
            text = f'It is worth a label, but its quota was spent: {", ".join(forbidden)}.'
        elif method == 'random':
            text = f'It is worth a label, but {len(picks.order)} others were drawn.'
        else:
            text = f'It is worth a label, but `{method}` preferred {len(picks.order)} others.'
        sheet.close(int(rows[row]), 'candidate', text)
    if len(picks.order) == len(rows) < n_wanted:
        sheet.notes.append(f'All {len(rows)} candidates were taken: {n_wanted} labels could have been spent.')
    elif len(picks.order) < n_wanted:
        names = ', '.join(f'{quota.kind} {", ".join(groups)}' for quota, groups in full)
        sheet.notes.append(
            f'{n_wanted - len(picks.order)} of {n_wanted} labels were not spent, because quotas were: {names}.'
        )
    return picks.gain


def _full_groups(quotas: list[Quota], picked: NDArray[np.int64]) -> list[tuple[Quota, list[str]]]:
    """Return the quotas of which nothing is left, with the groups that they closed."""
    full = [(quota, quota.full(picked)) for quota in quotas]
    return [(quota, groups) for quota, groups in full if groups]


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
    known: Configurations | None = None,
    agreed: Mapping[str, str] | None = None,
    stream_descriptors: NDArray[np.float64] | None = None,
    spent_descriptors: NDArray[np.float64] | None = None,
    costs: NDArray[np.float64] | None = None,
) -> Decision:
    """Give every frame of the pool a class, a reason and, if it is to be labelled, a rank.

    In this order: the random stream is taken; frames labelled before, unphysical frames, those that broke the model and
    those outside the trust window are closed, and those that a cheap level agrees upon; repeats go (see
    :data:`aiida_mlipal.science.decision.CLASSES`); the method picks from the rest until ``settings.n_labels`` are
    taken. It is ``settings.first_method`` as long as ``known`` holds no labelled calibration frame. The last safe and
    the first unsafe frame of a stopped replica stay candidates above the window: they show the model the edge of what
    it can do, and without them a model that explodes everywhere would never receive the frames that mend it.

    The order of the pool does not matter, nor do the last digits of its numbers.

    :param evaluation: of the pool, by the committee that explored it; further rows are ignored.
    :param reference_descriptors: (N, D) of the training set, by the same model, without isolated atoms.
    :param thresholds: the trust window; None (iteration 0, or a single model) leaves the window out.
    :param uncertainty: (F,) of the frames of the pool, by the measure ``settings.uncertainty``; the largest spread of
        forces of each, if not given.
    :param calibrated: (F,) the force errors to expect of them, eV/Å, on which the window stands; None without one.
    :param max_labels: the most labels that may be taken in all, the random stream first.
    :param known: everything that was labelled before, accepted or rejected; bounds on the density follow from it.
    :param agreed: why frames need no label, by identity, see :func:`aiida_mlipal.science.prescreen.agreements`; the
        random stream is taken all the same.
    :param stream_descriptors: (M, D) of the random streams of earlier iterations, by the same model.
    :param spent_descriptors: (L, D) of other frames that are known and not trained on: rejected or withheld.
    :param costs: (F,) predicted core seconds of a label, for methods that ask for them.
    :raises ValueError: for a single model with a method or window that need a committee, a window without calibrated
        values, or a method that needs costs without any.
    """
    if thresholds is not None and calibrated is None:
        raise ValueError('a trust window needs `calibrated`, the force errors to expect of the frames of the pool.')
    if settings.cost_method and costs is None:
        raise ValueError(
            f'the method `{settings.cost_method}` needs `costs`, the core seconds to expect of each label.'
        )
    if max_labels is not None:
        check_integer('max_labels', max_labels, at_least=0)
    known = Configurations.empty() if known is None else known
    is_first = not (known.is_labelled & known.has_role('calibration')).any()
    method = settings.first_method if is_first else settings.method
    evaluation = evaluation.take(evaluation.index_of(pool.frame_id))
    uncertainty = evaluation.max_forces_std if uncertainty is None else uncertainty
    calibrated = uncertainty if calibrated is None else calibrated
    distance, gain = np.full(len(pool), np.nan), np.full(len(pool), np.nan)
    applied: dict[str, float] = {}
    sheet = Sheet(pool, calibrated)
    if method != settings.method:
        sheet.notes.append(
            f'Picks were made by `{method}` (`first_method`), not by `{settings.method}`: no frame is labelled yet '
            'that the uncertainty could be calibrated on.'
        )
    if len(pool):
        uncertain = evaluation.member_energy.shape[1] > 1 or bool(np.isfinite(uncertainty).any())
        _require_uncertainty(uncertain, settings, thresholds)
        finite: dict[str, NDArray[np.bool_]] = {
            'energy': np.isfinite(evaluation.energy),
            'forces': np.logical_and.reduceat(np.isfinite(evaluation.forces).all(axis=1), evaluation.offsets[:-1]),
            'descriptors': np.logical_and.reduce(np.isfinite(evaluation.descriptors), axis=1),
        }
        if uncertain:
            finite['uncertainty'] = np.isfinite(calibrated)
        limit = settings.n_labels if max_labels is None else min(settings.n_labels, max_labels)

        sheet.take_stream(dict(zip(known.frame_id.tolist(), known.status.tolist(), strict=True)), max_labels)
        n_wanted = max(limit - sheet.n_taken, 0)
        bounds = Bounds(settings.max_force, settings.density_factor)
        sheet.close_unphysical(evaluation, known, bounds, settings.min_distance_factor)
        sheet.close_broken(finite)
        applied = sheet.close_window(thresholds, n_wanted, settings.lower_floor)
        sheet.close_agreed(agreed or {})
        sound = np.logical_and.reduce(list(finite.values())) & (sheet.klass != 'unphysical')
        tables = Tables.scaled(
            evaluation.descriptors, sound, reference_descriptors, stream_descriptors, spent_descriptors
        )
        distance = np.where(finite['descriptors'], nearest_distance(tables.pool, tables.trained), np.nan)
        sheet.close_duplicates(tables, distance, settings.duplicate_distance)
        rows = sheet.rows()
        candidates = Candidates(
            frame_ids=pool.frame_id[rows],
            table=tables.pool[rows],
            reference=tables.trained,
            uncertainty=calibrated[rows] if uncertain else None,
            cost=None if costs is None else costs[rows],
        )
        gain[rows] = _pick(sheet, candidates, rows, settings, method, n_wanted, [seed, iteration])
    return Decision(
        frame_id=pool.frame_id,
        uncertainty=uncertainty,
        calibrated=calibrated,
        distance=distance,
        gain=gain,
        klass=sheet.klass,
        rank=sheet.rank,
        reason=sheet.reason,
        method=method,
        seed=seed,
        iteration=iteration,
        thresholds=applied,
        settings=asdict(settings),
        notes=sheet.notes,
    )
