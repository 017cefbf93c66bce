"""The figures of the report about candidate pools: how far out they are, and what became of their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.report.collect import SelectionRecord
from aiida_mlipal.report.figures import new_axes, styled
from aiida_mlipal.report.style import ACCENT, CLASS_COLOURS, GRADE_COLOURS, INK, SECOND
from aiida_mlipal.science.drift import ALARM

__all__ = ('class_bars', 'descriptor_maps', 'drift')


@styled
def class_bars(selections: Sequence[SelectionRecord]) -> Any:
    """Draw how many frames of each pool fell into each class."""
    figure, (axis,) = new_axes(1, 7.2, 0.9 + 0.42 * len(selections))
    left = np.zeros(len(selections))
    rows = np.arange(len(selections))
    for name, colour in CLASS_COLOURS.items():
        counts = np.array([record.attributes['counts'].get(name, 0) for record in selections])
        if not counts.any():
            continue
        axis.barh(rows, counts, left=left, color=colour, height=0.66, label=name)
        for row in rows[counts > 0]:
            if counts[row] > 0.03 * max(sum(record.attributes['counts'].values()) for record in selections):
                axis.text(
                    left[row] + counts[row] / 2, row, counts[row], ha='center', va='center', fontsize=8, color='#111'
                )
        left += counts
    axis.set(
        yticks=rows,
        yticklabels=[f'iteration {record.iteration + 1}' for record in selections],
        xlabel='frames of the pool',
    )
    axis.invert_yaxis()
    axis.legend(
        loc='lower left', bbox_to_anchor=(0, 1), ncols=8, columnspacing=1.0, handlelength=0.9, handletextpad=0.4
    )
    return figure


@styled
def descriptor_maps(selections: Sequence[SelectionRecord]) -> Any:
    """Draw the two principal components of the pool's descriptors, coloured by class, one map per iteration."""
    from matplotlib import pyplot

    columns = min(3, len(selections))
    lines = -(-len(selections) // columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(2.7 * columns + 0.2, 2.6 * lines + 0.3), layout='constrained', squeeze=False
    )
    handles: dict[str, Any] = {}
    for axis, record in zip(grid.flat, selections, strict=False):
        plane, share = _principal_components(record.descriptors)
        klass = record.columns['klass']
        for name in reversed(CLASS_COLOURS):  # what was selected is drawn on top
            mask = klass == name
            if mask.any():
                size, edge = (26, 0.6) if name in ('selected', 'stream') else (11, 0)
                handles[name] = axis.scatter(
                    *plane[mask].T, s=size, color=CLASS_COLOURS[name], lw=edge, edgecolors=INK, alpha=0.85, label=name
                )
        axis.set(
            title=f'iteration {record.iteration + 1}',
            xticks=[],
            yticks=[],
            xlabel=f'PC 1 ({share[0]:.0%})',
            ylabel=f'PC 2 ({share[1]:.0%})',
        )
    for axis in grid.flat[len(selections) :]:
        axis.set_visible(False)
    ordered = [name for name in CLASS_COLOURS if name in handles]
    figure.legend(
        [handles[name] for name in ordered],
        ordered,
        loc='outside lower center',
        ncols=8,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    return figure


def _principal_components(descriptors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (F, 2) coordinates and the share of the variance in each; constant columns do not count."""
    scale = descriptors.std(axis=0)
    table = (descriptors - descriptors.mean(axis=0))[:, scale > 0] / scale[scale > 0]
    if min(table.shape) < 2:
        return np.zeros((len(descriptors), 2)), np.zeros(2)
    u, s, _ = np.linalg.svd(table, full_matrices=False)
    return u[:, :2] * s[:2], s[:2] ** 2 / np.sum(s**2)


@styled
def drift(drifts: Sequence[Mapping[str, Any]]) -> Any:
    """Draw by iteration the share of frames outside the training domain, and the extrapolation grades of the pool."""
    figure, (shares, bars) = new_axes(2)
    iterations = np.arange(1, len(drifts) + 1)
    for name, colour, marker, label in (('pool', ACCENT, 'o', 'pool'), ('stream', SECOND, 's', 'random stream')):
        outside = [100 * found[name].get('outside_share', np.nan) for found in drifts]
        shares.plot(iterations, outside, marker=marker, color=colour, label=label, clip_on=False)
    shares.axhline(100 * ALARM, color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.6)
    shares.annotate('alarm', (1, 100 * ALARM), xycoords=('axes fraction', 'data'), ha='right', va='bottom', fontsize=8)
    shares.set(ylabel='outside the training domain (%)', ylim=(0, 100))
    shares.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2)
    counts = np.array([[found['pool'].get('grades', {}).get(grade, 0) for grade in GRADE_COLOURS] for found in drifts])
    heights = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    bottoms = np.cumsum(heights, axis=1) - heights
    for column, (grade, colour) in enumerate(GRADE_COLOURS.items()):
        bars.bar(iterations, heights[:, column], bottom=bottoms[:, column], color=colour, width=0.66, label=grade)
    bars.set(ylabel='frames of the pool (%)', ylim=(0, 100))
    bars.legend(
        loc='lower left', bbox_to_anchor=(0, 1), ncols=5, title='extrapolation grade', title_fontsize=8.5,
        columnspacing=1.0, handlelength=0.9, handletextpad=0.4, alignment='left',
    )  # fmt: skip
    for axis in (shares, bars):
        axis.set(xlabel='iteration', xticks=iterations, xlim=(0.5, len(drifts) + 0.5))
    return figure
