"""What a label costs: a log-linear model fitted to finished ones, so that long calculations start first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ('CostModel', 'Size')

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
