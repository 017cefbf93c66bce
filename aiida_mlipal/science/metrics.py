"""Errors of a model on labelled frames, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.plain import to_plain

__all__ = ('FrameErrors', 'frame_errors', 'pooled_rmse', 'summary', 'upper_bound')


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameErrors:
    """Errors frame by frame, shape ``(F,)`` each. A rejected label is ``failed`` and its errors are NaN."""

    frame_id: NDArray[np.str_]
    role: NDArray[np.str_]
    trajectory: NDArray[np.str_]
    failed: NDArray[np.bool_]
    n_atoms: NDArray[np.int64]
    energy_error_per_atom: NDArray[np.float64]  #: prediction minus label, eV per atom
    force_sq_error: NDArray[np.float64]  #: mean over components, (eV/Å)²
    force_abs_error: NDArray[np.float64]  #: mean over components, eV/Å
    force_max_error: NDArray[np.float64]  #: largest component, eV/Å

    def __len__(self) -> int:
        return len(self.frame_id)

    def take(self, indices: NDArray[Any]) -> Self:
        """Return the rows at ``indices`` (integers or a mask), in that order."""
        return type(self)(**{field.name: getattr(self, field.name)[indices] for field in fields(self)})

    @classmethod
    def concatenate(cls, parts: Collection[FrameErrors]) -> FrameErrors:
        """Return all rows of ``parts``, of which there must be one at least, in order."""
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


def frame_errors(dataset: Configurations, evaluation: Evaluation, roles: Collection[str]) -> FrameErrors:
    """Return the errors of all labelled and rejected frames of ``dataset`` with one of ``roles``, in its order.

    :raises KeyError: if a labelled frame was not evaluated.
    """
    subset = dataset.take(dataset.has_role(*roles) & (dataset.status != 'unlabelled'))
    n_frames = len(subset)
    columns = {name: np.full(n_frames, np.nan) for name in ('energy', 'square', 'absolute', 'largest')}
    good = np.flatnonzero(subset.is_labelled)
    if len(good):
        labels = subset.take(good)
        predictions = evaluation.take(evaluation.index_of(labels.frame_id))
        errors = np.abs(predictions.forces - labels.forces)
        starts, components = labels.offsets[:-1], 3 * labels.n_atoms
        columns['energy'][good] = (predictions.energy - labels.energy) / labels.n_atoms
        columns['square'][good] = np.add.reduceat((errors**2).sum(axis=1), starts) / components
        columns['absolute'][good] = np.add.reduceat(errors.sum(axis=1), starts) / components
        columns['largest'][good] = np.maximum.reduceat(errors.max(axis=1), starts)
    return FrameErrors(
        frame_id=subset.frame_id,
        role=subset.role,
        trajectory=subset.trajectory,
        failed=~subset.is_labelled,
        n_atoms=subset.n_atoms,
        energy_error_per_atom=columns['energy'],
        force_sq_error=columns['square'],
        force_abs_error=columns['absolute'],
        force_max_error=columns['largest'],
    )


def pooled_rmse(values: NDArray[np.float64]) -> float:
    """Return the RMSE over all force components, from rows of (mean square error of a frame, its number of atoms)."""
    return float(np.sqrt(np.average(values[:, 0], weights=values[:, 1])))


def summary(errors: FrameErrors) -> dict[str, Any]:
    """Return RMSE and MAE of forces (over components, eV/Å) and energies (over frames, eV per atom), with counts.

    Errors are over the accepted labels, None if there are none; JSON-safe.
    """
    good = errors.take(~errors.failed)
    result: dict[str, Any] = dict.fromkeys(
        ('force_rmse', 'force_mae', 'force_max', 'energy_rmse_per_atom', 'energy_mae_per_atom')
    )
    if len(good):
        result['force_rmse'] = pooled_rmse(np.column_stack((good.force_sq_error, good.n_atoms)))
        result['force_mae'] = np.average(good.force_abs_error, weights=good.n_atoms)
        result['force_max'] = good.force_max_error.max()
        result['energy_rmse_per_atom'] = np.sqrt(np.mean(good.energy_error_per_atom**2))
        result['energy_mae_per_atom'] = np.mean(np.abs(good.energy_error_per_atom))
    result['n_frames'] = len(errors)
    result['n_failed'] = int(errors.failed.sum())
    result['n_trajectories'] = len(np.unique(errors.trajectory))
    plain: dict[str, Any] = to_plain(result)
    return plain


def upper_bound(
    values: ArrayLike,
    trajectory: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float],
    *,
    confidence: float = 0.9,
    seed: int,
    n_resamples: int = 1000,
) -> float:
    """Return a one-sided upper confidence bound of ``statistic`` by a bootstrap over trajectories.

    Frames of one trajectory resemble each other, so whole trajectories are drawn with replacement (cluster bootstrap;
    Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8). The deviations are widened by
    sqrt(G/(G-1)), because resampling G clusters underestimates the variance by that much.

    :param values: (F,) or (F, C), one row per frame, handed to ``statistic`` in resampled form.
    :param trajectory: (F,) names.
    :param confidence: for 0.9, about one bound in ten lies below the truth.
    :returns: NaN for fewer than two trajectories: one says nothing of the spread between them.
    """
    rows, names = np.asarray(values, dtype=float), np.asarray(trajectory)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    n_groups = len(members)
    if n_groups < 2:
        return float('nan')
    rng = np.random.default_rng(seed)
    estimate = float(statistic(rows))
    draws = [
        statistic(rows[np.concatenate([members[group] for group in drawn])])
        for drawn in rng.integers(n_groups, size=(n_resamples, n_groups))
    ]
    deviation = float(np.quantile(draws, confidence)) - estimate
    return estimate + max(deviation, 0.0) * float(np.sqrt(n_groups / (n_groups - 1)))
