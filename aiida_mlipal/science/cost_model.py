"""What a label costs: a log-linear model fitted to finished ones, so that long calculations start first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from aiida_mlipal.science.configurations import Configurations

__all__ = ('CostModel', 'MeasuredCosts', 'Size', 'predict_costs')

#: Exponents before anything was measured: diagonalisation by the cube of the electrons, k-points one by one.
_PRIOR: Final = (3.0, 1.0)
#: Weight of the prior in the fit, in units of observations one natural logarithm away.
_PRIOR_WEIGHT: Final = 1.0


@dataclass(frozen=True)
class Size:
    """What the cost of a calculation depends on most."""

    n_electrons: float
    n_kpoints: int = 1


@dataclass(frozen=True)
class CostModel:
    """``log(core seconds) = intercept + electrons * log(n_electrons) + kpoints * log(n_kpoints)``."""

    intercept: float = 0.0
    electrons: float = _PRIOR[0]
    kpoints: float = _PRIOR[1]
    n_observations: int = 0

    @classmethod
    def fit(cls, sizes: Sequence[Size], core_seconds: Sequence[float]) -> CostModel:
        """Return the least-squares fit, drawn towards cubic and linear scaling where the data say nothing.

        Ridge regression on the exponents: observations of one size leave them at the prior and fix the intercept.

        :param core_seconds: positive, one per size.
        :raises ValueError: if lengths differ or a cost is not positive.
        """
        if len(sizes) != len(core_seconds) or any(not cost > 0 for cost in core_seconds):
            raise ValueError('expected one positive cost per size.')
        if not sizes:
            return cls()
        features = np.log([[size.n_electrons, size.n_kpoints] for size in sizes])
        target = np.log(core_seconds) - features @ _PRIOR
        centre = features.mean(axis=0)
        centred = features - centre
        gram = centred.T @ centred + _PRIOR_WEIGHT * np.eye(2)
        correction = np.linalg.solve(gram, centred.T @ (target - target.mean()))
        exponents = np.array(_PRIOR) + correction
        return cls(
            intercept=float(target.mean() - centre @ correction),
            electrons=float(exponents[0]),
            kpoints=float(exponents[1]),
            n_observations=len(sizes),
        )

    def predict(self, size: Size) -> float:
        """Return core seconds; relative units if nothing was measured."""
        logarithm = self.intercept + self.electrons * np.log(size.n_electrons) + self.kpoints * np.log(size.n_kpoints)
        return float(np.exp(logarithm))


@dataclass(frozen=True, eq=False)
class MeasuredCosts:
    """What labels took, in columns of one row per label; ``nan`` for a size that is not known."""

    frame_id: NDArray[np.str_]
    core_s: NDArray[np.float64]
    n_electrons: NDArray[np.float64]
    n_kpoints: NDArray[np.float64]


def predict_costs(
    pool: Configurations, known: Configurations, measured: MeasuredCosts
) -> tuple[CostModel, NDArray[np.float64]]:
    """Return the model fitted to the measured costs, and the core seconds to expect of each frame of a pool.

    Electrons per atom of each element are fitted to what the calculations counted (non-negative least squares; the
    atomic number where nothing was counted), and k-points are those of labels with the same reference cell, or else of
    all labels, in the median. Without any measurement costs are relative.

    :param known: the labelled frames that the measurements belong to.
    :returns: model, and (F,) core seconds.
    """
    used = (measured.core_s > 0) & np.isfinite(measured.n_electrons) & np.isfinite(measured.n_kpoints)
    used &= np.isin(measured.frame_id, known.frame_id)
    electrons, kpoints = measured.n_electrons[used], measured.n_kpoints[used]
    model = CostModel.fit(
        [Size(float(count), int(points)) for count, points in zip(electrons, kpoints, strict=True)],
        measured.core_s[used].tolist(),
    )
    labels = known.take(known.index_of(measured.frame_id[used]))
    elements = np.unique(np.concatenate((pool.numbers, labels.numbers)))
    per_atom = elements.astype(float)
    if len(labels):
        fitted, _ = nnls(_counts(labels, elements), electrons)
        per_atom = np.where(np.isin(elements, labels.numbers) & (fitted > 0), fitted, per_atom)
    usual = float(np.median(kpoints)) if len(labels) else 1.0
    cells = {cell.tobytes(): points for cell, points in zip(labels.reference_cell, kpoints.tolist(), strict=True)}
    sizes = [
        Size(float(count), max(1, round(cells.get(cell.tobytes(), usual))))
        for count, cell in zip(_counts(pool, elements) @ per_atom, pool.reference_cell, strict=True)
    ]
    return model, np.array([model.predict(size) for size in sizes])


def _counts(frames: Configurations, elements: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many atoms of each element each frame has, shape ``(F, E)``."""
    counts = np.zeros((len(frames), len(elements)))
    np.add.at(counts, (frames.atom_frame, np.searchsorted(elements, frames.numbers)), 1.0)
    return counts
