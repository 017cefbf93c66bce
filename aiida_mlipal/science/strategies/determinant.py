"""Strategies that make a determinant large: of descriptors, weighted with uncertainty, per core second."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.descriptors import on_grid, squared_norms
from aiida_mlipal.science.strategies.greedy import Scorer

__all__ = ('RIDGE', 'CostAware', 'MaxDet', 'WeightedMaxDet', 'whitened')

#: Variance of the noise in the kernel, against a typical squared descriptor of 1.
RIDGE: Final = 1e-3
#: Bits of an entry of the whitening matrix: with those of a descriptor, their products fill a double.
_BITS: Final = 28
#: Sum of squared rows on the finest grid whose products add up without round-off.
_EXACT: Final = 2.0**12
#: Largest uncertainty that counts, over the median: frames of a model that exploded must not blur all others.
_STRETCH: Final = 100.0
#: How far approximate residuals may be off, relative to the largest; they are off by some 1e-13.
_MARGIN: Final = 1e-9


def _substitute(factor: NDArray[np.float64], products: NDArray[np.float64]) -> None:
    """Solve ``factor @ x = products`` in place for a lower triangular factor, by elementwise operations.

    Each is rounded the same on every processor, which LAPACK's solvers are not.
    """
    scratch = np.empty_like(products)
    for row in range(len(factor)):
        products[row] /= factor[row, row]
        np.multiply(factor[row + 1 :, row, None], products[row], out=scratch[row + 1 :])
        products[row + 1 :] -= scratch[row + 1 :]


def _cholesky(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower Cholesky factor, by elementwise operations."""
    lower = matrix.copy()
    for row in range(len(lower)):
        lower[row:, row] /= np.sqrt(lower[row, row])
        lower[row + 1 :, row + 1 :] -= np.multiply.outer(lower[row + 1 :, row], lower[row + 1 :, row])
    return np.tril(lower)


def whitened(table: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows z with ``z . z' = x A^-1 x'``, where ``A = RIDGE + sum of x x^T`` over the reference, on a grid.

    :param table: (N, D), on one grid with ``reference`` (R, D).
    """
    n_features = table.shape[1]
    information = RIDGE * np.eye(n_features)
    longest = float(squared_norms(reference).max(initial=1.0))
    step = max(4, int(_EXACT / longest))
    for start in range(0, len(reference), step):  # exact within a block, and added in a fixed order
        block = reference[start : start + step]
        information += block.T @ block
    inverse = np.eye(n_features)
    _substitute(_cholesky(information), inverse)
    longest = float(np.sqrt(squared_norms(inverse).max(initial=0.0)))
    spacing = 2.0 ** (np.ceil(np.log2(longest) + 1 / 3) - _BITS) if longest > 0 else 1.0
    (rows,) = on_grid(table @ (np.round(inverse / spacing) * spacing).T)
    return rows


class MaxDet(Scorer):
    """Make the determinant of the kernel of reference and picks largest, one pick at a time.

    The kernel is ``X X^T / RIDGE + 1``. Conditioned on the reference and earlier picks, row x adds
    ``log(1 + x A^-1 x)`` with ``A = RIDGE + sum of x x^T over both``: greedy D-optimal design, which is greedy MAP
    inference of a determinantal point process (Chen et al., NeurIPS 2018), and reaches at least 1 - 1/e of the best
    gain (Nemhauser et al., Math. Program. 14, 265 (1978)). Rows are whitened by the reference once, O(N D²); then a
    pivoted Cholesky factorisation gives the residuals of those rows that may win: at most O(k N (D + k)) for k picks.
    """

    SENTENCE = 'Of the candidates left it added most to the determinant'

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self.rows = rows  #: (N, D) whitened, on a grid
        self.start = squared_norms(rows)
        self.factor = np.zeros((0, 0))  #: (k, k) of the picks' kernel ``1 + Z Z^T``
        self.inverse = np.zeros((0, 0))  #: of the factor, with round-off
        super().__init__(self.start, margin=_MARGIN * float(self.start.max(initial=0.0)))

    def _residual(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the columns of the factor that belong to ``rows``, shape ``(k, n)``, and what they leave."""
        columns = self.rows[self.taken] @ self.rows[rows].T
        _substitute(self.factor, columns)
        left = self.start[rows]
        for column in columns:  # one by one, so that a residual never rises, not in its last bit either
            left = left - column**2
        return columns, np.maximum(left, 0.0)

    def rescore(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what of each row the reference and the picks do not explain: ``x A^-1 x``."""
        return self._residual(rows)[1]

    def approximate(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the same by products of matrices alone, several times faster."""
        columns = self.inverse @ (self.rows[self.taken] @ self.rows[rows].T)
        left: NDArray[np.float64] = self.start[rows] - np.einsum('ij,ij->j', columns, columns)
        return left

    def take(self, row: int) -> None:
        """Add a row to the picks, and to the factor."""
        columns, left = self._residual(np.array([row]))
        size = len(self.taken)
        factor = np.zeros((size + 1, size + 1))
        factor[:size, :size] = self.factor
        factor[size, :size] = columns[:, 0]
        factor[size, size] = np.sqrt(1 + left[0])
        inverse = np.zeros((size + 1, size + 1))
        inverse[:size, :size] = self.inverse
        inverse[size, :size] = -(columns[:, 0] @ self.inverse) / factor[size, size]
        inverse[size, size] = 1 / factor[size, size]
        self.factor, self.inverse = factor, inverse
        super().take(row)

    def gain(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each row adds to the logarithm of the determinant."""
        gains: NDArray[np.float64] = np.log1p(scores)
        return gains


class WeightedMaxDet(MaxDet):
    """As :class:`MaxDet`, with each row stretched by its uncertainty over the median (a hundredfold at most).

    This is the decomposition of a determinantal point process into quality and diversity (Kulesza and Taskar, Found.
    Trends Mach. Learn. 5, 123 (2012), section 3.1).
    """

    SENTENCE = 'Of the candidates left it added most to the determinant weighted with uncertainty'

    def __init__(self, rows: NDArray[np.float64], uncertainty: NDArray[np.float64]) -> None:
        (stretched,) = on_grid(rows * np.minimum(_relative(uncertainty), _STRETCH)[:, None])
        super().__init__(stretched)


class CostAware(WeightedMaxDet):
    """The gain of :class:`WeightedMaxDet` per predicted core second (in units of the median candidate's).

    The cost-benefit greedy rule (Leskovec et al., KDD 2007; Krause and Guestrin, IJCAI 2007 tutorial): twice the gain
    is worth twice the time.
    """

    SENTENCE = 'Of the candidates left it was expected to add most per core second'

    def __init__(self, rows: NDArray[np.float64], uncertainty: NDArray[np.float64], cost: NDArray[np.float64]) -> None:
        super().__init__(rows, uncertainty)
        self.cost = _relative(cost)
        self.scores = np.log1p(self.start) / self.cost
        self.margin /= float(self.cost.min())

    def rescore(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the gain per cost."""
        scores: NDArray[np.float64] = np.log1p(super().rescore(rows)) / self.cost[rows]
        return scores

    def approximate(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the gain per cost."""
        scores: NDArray[np.float64] = np.log1p(np.maximum(super().approximate(rows), 0)) / self.cost[rows]
        return scores

    def gain(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores, which are gains per cost already."""
        return scores


def _relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positive numbers over their median."""
    middle = float(np.median(values)) if len(values) else 1.0
    return values / middle if middle > 0 else np.ones(len(values))
