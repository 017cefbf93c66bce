"""The figures on uncertainties: do they tell the errors, and do their intervals hold?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.report.collect import Predictions
from aiida_mlipal.report.figures import new_axes, styled
from aiida_mlipal.report.style import ACCENT, INK, SECOND
from aiida_mlipal.science.calibration.metrics import LEVELS, reliability

__all__ = ('coverage', 'reliability_curve', 'uncertainty')


@styled
def uncertainty(predictions: Predictions) -> Any:
    """Draw, atom by atom on test frames, the actual error against the expected one, before and after calibration."""
    from matplotlib.ticker import LogLocator, NullFormatter

    raw, shown, errors = predictions.on_test_atoms()
    error, shown = 1000 * np.sqrt(np.mean(errors**2, axis=1)), 1000 * shown
    figure, (axis,) = new_axes(1, 4.6, 3.7)
    good = (shown > 0) & (error > 0)
    axis.scatter(shown[good], error[good], s=10, lw=0, alpha=0.55, color=ACCENT, label='atoms')
    limits = [min(shown[good].min(), error[good].min()), max(shown[good].max(), error[good].max())]
    axis.plot(limits, limits, color=INK, lw=0.9, alpha=0.6, label='expected = actual')
    fitted = predictions.calibration
    if fitted is not None and predictions.is_spread:
        axis.plot(*_binned(1000 * raw, error), color=INK, lw=1, ls=(0, (2, 2)), alpha=0.55, label='binned, raw spread')
    axis.plot(*_binned(shown, error), color=SECOND, marker='o', ms=4, label='binned RMS')
    what = 'committee spread' if predictions.evaluation.member_energy.shape[1] > 1 else 'uncertainty of the model'
    name = f'expected force error from {fitted.uncertainty}' if fitted is not None else f'{what}, not calibrated'
    axis.set(xscale='log', yscale='log', xlabel=f'{name} (meV/Å)', ylabel='force error (meV/Å)')
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_major_formatter('{x:g}')
        ticks.set_minor_formatter(NullFormatter())
    axis.legend(loc='upper left')
    return figure


def _binned(x: NDArray[np.float64], y: NDArray[np.float64], n_bins: int = 8) -> tuple[Any, Any]:
    """Return the RMS of x and y in bins of equal counts along x."""
    order = np.array_split(np.argsort(x, kind='stable'), min(n_bins, max(1, len(x) // 5)))
    rms = [(np.sqrt(np.mean(x[rows] ** 2)), np.sqrt(np.mean(y[rows] ** 2))) for rows in order if len(rows)]
    return tuple(zip(*rms, strict=True))  # type: ignore[return-value]


@styled
def reliability_curve(predictions: Predictions) -> Any:
    """Draw the share of force components within normal intervals against their level, on test frames."""
    raw, shown, errors = predictions.on_test_atoms()
    levels = np.linspace(0, 1, 101)
    figure, (axis,) = new_axes(1, 3.6, 3.4)
    axis.plot([0, 100], [0, 100], color=INK, lw=0.8, alpha=0.5)
    if predictions.is_spread:
        share = 100 * reliability(raw, errors, levels)
        axis.plot(100 * levels, share, color=INK, lw=1, ls=(0, (2, 2)), alpha=0.6, label='as the model says')
    axis.plot(100 * levels, 100 * reliability(shown, errors, levels), color=SECOND, label='calibrated')
    axis.set(xlabel='level of the interval (%)', ylabel='force components within it (%)', xlim=(0, 100), ylim=(0, 100))
    axis.legend(loc='upper left')
    return figure


@styled
def coverage(checks: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the share of new trajectories within their intervals, by iteration and over all so far, at each level."""
    figure, panels = new_axes(len(LEVELS), 2.3, 2.7)
    for axis, level in zip(panels, LEVELS, strict=True):
        axis.axhline(100 * level, color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.6)
        for suffix, colour, name in (('', ACCENT, 'this iteration'), ('_in_all', SECOND, 'in all')):
            points = []
            for check in checks:
                (entry,) = [entry for entry in check['levels'] if entry['level'] == level]
                total = entry[f'n_trajectories{suffix}']
                if total:
                    points.append((check['iteration'] + 1, 100 * entry[f'covered_trajectories{suffix}'] / total))
            if points:
                axis.plot(*zip(*points, strict=True), marker='o', ms=4, color=colour, label=name, clip_on=False)
        axis.set(title=f'{level:.0%} intervals', xlabel='iteration', ylim=(0, 103))
        axis.set_xticks([check['iteration'] + 1 for check in checks])
    panels[0].set_ylabel('trajectories covered (%)')
    panels[0].legend(loc='lower left')
    return figure
