"""Equation of state: the third-order Birch-Murnaghan fit."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_mlipal.science.units import GPA

__all__ = ('birch_murnaghan', 'fit')

_MIN_POINTS: Final = 5


def birch_murnaghan(volume: ArrayLike, v0: float, e0: float, b0: float, b0_prime: float) -> NDArray[np.float64]:
    """Return the energy (eV) at ``volume`` (Å³), ``b0`` in eV/Å³ (Birch, Phys. Rev. 71, 809 (1947))."""
    eta = (v0 / np.asarray(volume, dtype=float)) ** (2 / 3) - 1
    result: NDArray[np.float64] = e0 + 9 * v0 * b0 / 16 * eta**2 * (2 + (b0_prime - 4) * eta)
    return result


def _roots(quadratic: np.polynomial.Polynomial) -> list[float]:
    """Return the real roots, exact also where the leading coefficient is next to nothing: for a curve with B' = 4."""
    c, b, a = (*quadratic.coef, 0.0, 0.0)[:3]
    discriminant = b * b - 4 * a * c
    if discriminant < 0:
        return []
    q = -(b + np.copysign(np.sqrt(discriminant), b)) / 2
    offset, factor = quadratic.mapparms()
    return [float((top / bottom - offset) / factor) for top, bottom in ((c, q), (q, a)) if bottom]


def fit(volumes: ArrayLike, energies: ArrayLike) -> dict[str, float]:
    """Fit volumes (Å³ per cell) and energies (eV per cell).

    :returns: ``v0`` (Å³), ``e0`` (eV), ``b0_gpa``, ``b0_prime`` and ``rms_mev``, the residual in meV per cell.
    :raises ValueError: for fewer than five points, or where they do not enclose a minimum.
    """
    volume, energy = np.asarray(volumes, dtype=float), np.asarray(energies, dtype=float)
    if volume.shape != energy.shape or volume.ndim != 1:
        raise ValueError(f'one energy is needed per volume, got shapes {volume.shape} and {energy.shape}.')
    if len(np.unique(volume)) < _MIN_POINTS:
        raise ValueError(f'a fit needs {_MIN_POINTS} different volumes, got {len(np.unique(volume))}.')
    if not (np.isfinite(volume).all() and np.isfinite(energy).all() and (volume > 0).all()):
        raise ValueError('volumes must be positive and energies finite.')
    # In x = V^(-2/3) the third-order curve is a cubic polynomial, so the least-squares fit is linear and exact.
    scale, shift = float(volume.mean()), float(energy.mean())
    x = (volume / scale) ** (-2 / 3)
    polynomial = np.polynomial.Polynomial.fit(x, energy - shift, 3)
    slope, curvature, third = polynomial.deriv(), polynomial.deriv(2), polynomial.deriv(3)
    minima = [root for root in _roots(slope) if x.min() <= root <= x.max() and curvature(root) > 0]
    if not minima:
        raise ValueError(
            f'the energies have no minimum between {volume.min():.3f} and {volume.max():.3f} Å³: '
            'shift or widen the range of volumes.'
        )
    x0 = minima[0]
    v0 = scale * x0**-1.5
    b0 = 4 / 9 * float(curvature(x0)) * x0**2 / v0
    b0_prime = 4 + 8 / 27 * float(third(x0)) * x0**3 / (v0 * b0)
    rms = float(np.sqrt(np.mean((polynomial(x) - energy + shift) ** 2)))
    return {
        'v0': v0,
        'e0': float(polynomial(x0)) + shift,
        'b0_gpa': b0 / GPA,
        'b0_prime': b0_prime,
        'rms_mev': 1000 * rms,
    }
