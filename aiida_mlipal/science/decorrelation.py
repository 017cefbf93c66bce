"""How many frames of a trajectory say the same: the stride after which its descriptors have forgotten themselves."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ('MIN_FRAMES', 'statistical_inefficiency')

#: Fewer frames tell nothing about their correlation.
MIN_FRAMES: Final = 10


def statistical_inefficiency(series: NDArray[np.float64]) -> float:
    """Return how many successive rows are worth one independent row, at least 1.

    One plus twice the integral of the autocorrelation of the rows (their deviations from the mean, multiplied as
    vectors), up to where it first reaches zero (Chodera et al., J. Chem. Theory Comput. 3, 26 (2007)). 1 for fewer than
    ten rows.

    :param series: (T, D), in equal intervals.
    """
    n_rows = len(series)
    if n_rows < MIN_FRAMES:
        return 1.0
    deviations = series - series.mean(axis=0)
    # All lags at once: the transform of the padded series, squared (Wiener and Khinchin).
    spectrum = np.fft.rfft(deviations, n=2 * n_rows, axis=0)
    sums = np.fft.irfft((spectrum * spectrum.conj()).real.sum(axis=1), n=2 * n_rows)[:n_rows]
    if not sums[0] > 1e-20:
        return float(n_rows)  # nothing moved
    lags = np.arange(1, n_rows)
    correlation = sums[1:] / sums[0] * n_rows / (n_rows - lags)
    ends = np.flatnonzero(correlation <= 0)
    until = int(ends[0]) if len(ends) else n_rows - 1
    return float(max(1.0, 1 + 2 * np.sum(correlation[:until] * (1 - lags[:until] / n_rows))))
