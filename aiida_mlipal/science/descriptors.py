"""Frame descriptors as selection compares them: scaled, and on a grid on which inner products have no round-off.

Coordinates are multiples of one power of two, coarse enough that every partial sum of an inner product of two rows fits
into the 53 bits of a double. A product of matrices of such rows is exact, whatever the order in which a BLAS sums, the
number of its threads and the instructions of the processor; so squared distances are, too, and with them decisions are
the same to the last bit on every machine. (The idea is that of the error-free transformation of matrix products,
Ozaki et al., Numer. Algorithms 59, 95 (2012), with one slice.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ('FINEST', 'on_grid', 'row_order', 'squared_distances', 'squared_norms', 'standardise')

#: Finest spacing of the grid: descriptors are single-precision numbers of order one, and finer digits are noise.
FINEST: Final = 2.0**-20
#: Bits of a coordinate: a squared distance of two rows needs twice as many and two more.
_BITS: Final = 25
#: Spread below which a feature is noise of a single-precision model, relative to the largest descriptor.
_NOISE: Final = 1e-5
#: Rows that fit into a cache while they are worked on.
_BLOCK: Final = 256


def squared_norms(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared length of each row, shape ``(N,)``; exact for rows on a grid."""
    norms: NDArray[np.float64] = np.einsum('ij,ij->i', table, table)
    return norms


def on_grid(*tables: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Round tables (N, D) in place to one grid, on which inner products of their rows are exact, and return them.

    The spacing is 2^-20, or a larger power of two if the longest row needs it.
    """
    longest = max((float(squared_norms(table).max()) for table in tables if table.size), default=0.0)
    # A third of a bit more, or rows of length one (or two, or four) would sit on the edge between two grids.
    exponent = np.ceil(np.log2(longest) / 2 + 1 / 3) if longest > 0 else 0.0
    spacing = max(FINEST, float(2.0 ** (exponent - _BITS)))
    for table in tables:
        for start in range(0, len(table), _BLOCK):
            block = table[start : start + _BLOCK]
            block /= spacing
            np.round(block, out=block)
            block *= spacing
            block += 0.0  # no negative zeros: equal rows have equal bytes
    return list(tables)


def squared_distances(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared Euclidean distances between the rows of two tables on one grid, shape ``(N, M)``; exact."""
    squares = left @ right.T
    squares *= -2
    squares += squared_norms(left)[:, None]
    squares += squared_norms(right)
    return np.maximum(squares, 0.0, out=squares)  # round-off, if the tables are on no grid


def row_order(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an order of the rows that depends on their content alone, shape ``(N,)``."""
    rows = np.ascontiguousarray(table)
    if rows.size == 0:
        return np.arange(len(rows))
    return np.argsort(rows.view(f'V{rows.itemsize * rows.shape[1]}').ravel(), kind='stable')


def standardise(
    descriptors: NDArray[np.float64], reference: NDArray[np.float64], fitted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both tables with each feature centred and divided by its spread, scaled to a mean squared row of 1.

    Mean and spread are over the reference and the pool together. A feature that varies no more than single precision
    allows becomes zero. The result is :func:`on_grid`, so that the last digits of a descriptor change nothing.

    :param descriptors: (N, D) of the pool.
    :param reference: (R, D) of the training set; R may be 0.
    :param fitted: (N,) mask of the pool rows that mean and spread are taken from; all, if not given.
    """
    n_features = descriptors.shape[1] if descriptors.ndim == 2 else 0
    reference = reference.reshape(-1, n_features) if reference.size == 0 else reference
    if reference.ndim != 2 or reference.shape[1] != n_features:
        raise ValueError(
            f'the pool has {n_features} descriptors per frame and the training set an array of shape '
            f'{reference.shape}: evaluate both with the same model.'
        )
    counted = [reference, descriptors if fitted is None or fitted.all() else descriptors[fitted]]
    counted = [table for table in counted if table.size]
    if not counted:
        return np.zeros(descriptors.shape), np.zeros(reference.shape)
    if not all(np.isfinite(table).all() for table in counted):
        raise ValueError('a descriptor is not finite: look at the evaluation of the pool and of the training set.')
    mean, spread = _moments(counted)
    used = spread > _NOISE * max(float(np.abs(bound)) for table in counted for bound in (table.min(), table.max()))
    weight = np.where(used, 1 / np.where(used, spread, 1.0), 0.0) / np.sqrt(max(int(used.sum()), 1))
    del counted
    table, known = on_grid(*(_scaled(table, mean, weight) for table in (descriptors, reference)))
    return table, known


def _scaled(table: NDArray[np.float64], mean: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``(table - mean) * weight``."""
    result = np.empty(table.shape)
    for start in range(0, len(table), _BLOCK):
        block = slice(start, start + _BLOCK)
        np.subtract(table[block], mean, out=result[block])
        result[block] *= weight
    return result


def _moments(tables: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column over all tables.

    Rows are added in an order that their content gives, so that the result does not depend on their order.
    """
    orders = [(table, row_order(table)) for table in tables]
    blocks = [
        (table, order[start : start + _BLOCK]) for table, order in orders for start in range(0, len(order), _BLOCK)
    ]
    n_rows = sum(len(table) for table in tables)
    mean = np.add.reduce([table[block].sum(axis=0) for table, block in blocks]) / n_rows
    squares = np.add.reduce([((table[block] - mean) ** 2).sum(axis=0) for table, block in blocks])
    return mean, np.sqrt(squares / n_rows)
