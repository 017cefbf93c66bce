"""The figures of the report: data in, SVG out. Errors in meV and meV/Å."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aiida_mlipal.provenance.labels import LabelCost
from aiida_mlipal.report.collect import Predictions
from aiida_mlipal.report.style import ACCENT, CLASS_COLOURS, INK, SECOND, STYLE, to_svg
from aiida_mlipal.science.cost_model import CostModel, Size

__all__ = (
    'arms',
    'equation_of_state',
    'label_costs',
    'learning_curve',
    'new_axes',
    'parity',
    'styled',
)


def styled(draw: Callable[..., Any]) -> Callable[..., str]:
    """Run a figure function in the report's style and return its figure as SVG."""

    def wrapper(*arguments: Any, **keywords: Any) -> str:
        import matplotlib as mpl

        mpl.use('Agg', force=False)
        with mpl.rc_context(STYLE):
            return to_svg(draw(*arguments, **keywords), draw.__name__.replace('_', '-'))

    wrapper.__doc__ = draw.__doc__
    wrapper.__name__ = draw.__name__
    return wrapper


def new_axes(n: int, width: float = 3.6, height: float = 3.0) -> tuple[Any, list[Any]]:
    """Return a figure and its ``n`` axes side by side, each of this size in inches."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, n, figsize=(width * n, height), layout='constrained', squeeze=False)
    return figure, list(axes[0])


@styled
def learning_curve(
    sizes: Sequence[int], force: Sequence[float], energy: Sequence[float], targets: Mapping[str, float]
) -> Any:
    """Draw errors (eV/Å, eV per atom) against the number of training frames, with the targets of the campaign."""
    figure, axes = new_axes(2)
    for axis, values, colour, name, target in (
        (axes[0], force, ACCENT, 'force RMSE (meV/Å)', targets.get('force_rmse')),
        (axes[1], energy, SECOND, 'energy error (meV/atom)', targets.get('energy_mae_per_atom')),
    ):
        errors = 1000 * np.array([np.nan if value is None else value for value in values], dtype=float)
        axis.plot(sizes, errors, marker='o', color=colour, clip_on=False)
        for size, error in zip(sizes, errors, strict=True):
            if np.isfinite(error):
                axis.annotate(
                    f'{error:.0f}' if error > 99 else f'{error:.3g}',
                    (size, error),
                    xytext=(0, 7),
                    textcoords='offset points',
                    ha='center',
                    fontsize=8,
                )
        if target is not None:
            axis.axhline(1000 * target, color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.6)
            axis.annotate(
                'target', (1, 1000 * target), xycoords=('axes fraction', 'data'), ha='right', va='bottom', fontsize=8
            )
        axis.margins(x=0.08, y=0.18)
        axis.set(xlabel='training frames', ylabel=name, ylim=(0, None), xticks=sorted(set(sizes)))
    return figure


@styled
def arms(comparison: Mapping[str, Any]) -> Any:
    """Draw the force errors of both arms on the same frames against the labels paid, and the error they are held to."""
    figure, (axis,) = new_axes(1, 4.6, 3.4)
    for (name, points), colour, marker in zip(comparison['arms'].items(), (ACCENT, SECOND), 'os', strict=True):
        sizes = [point['n_labels'] for point in points]
        axis.plot(sizes, [1000 * point['force_rmse'] for point in points], marker, ls='-', color=colour, label=name)
    saving = comparison['saving']
    axis.axhline(1000 * saving['target'], color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.6)
    axis.annotate(
        'equal error', (1, 1000 * saving['target']), xycoords=('axes fraction', 'data'), ha='right', va='bottom',
        fontsize=8,
    )  # fmt: skip
    axis.set(xlabel='labels paid', ylabel='force RMSE (meV/Å)', ylim=(0, None))
    axis.legend()
    return figure


@styled
def parity(predictions: Predictions) -> Any:
    """Draw predicted against computed energies (per atom, from the mean of their composition) and force components."""
    frames, evaluation = predictions.frames, predictions.evaluation
    per_atom = frames.energy / frames.n_atoms
    offset = np.empty(len(frames))
    for rows in frames.group_by_composition().values():
        offset[rows] = per_atom[rows].mean()
    figure, axes = new_axes(2, 3.5, 3.4)
    test = frames.role == 'test'
    energies = (1000 * (per_atom - offset), 1000 * (evaluation.energy / frames.n_atoms - offset))
    atoms = np.repeat(test, frames.n_atoms)
    for axis, (x, y), mask, size, unit, title in (
        (axes[0], energies, test, 26, 'meV/atom', 'energy'),
        (axes[1], (frames.forces, evaluation.forces), atoms, 7, 'eV/Å', 'force components'),
    ):
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        pad = 0.06 * (high - low or 1)
        axis.plot([low - pad, high + pad], [low - pad, high + pad], color=INK, lw=0.8, alpha=0.5)
        for chosen, colour, name in ((~mask, SECOND, 'calibration'), (mask, ACCENT, 'test')):
            axis.scatter(x[chosen].ravel(), y[chosen].ravel(), s=size, color=colour, alpha=0.65, lw=0, label=name)
        error = y - x
        text = f'RMSE {np.sqrt(np.mean(error**2)):.3g} {unit}\nMAE {np.mean(np.abs(error)):.3g} {unit}'
        axis.annotate(text, (0.97, 0.04), xycoords='axes fraction', ha='right', fontsize=8.5)
        axis.set(
            xlabel=f'reference ({unit})',
            ylabel=f'model ({unit})',
            title=title,
            xlim=(low - pad, high + pad),
            ylim=(low - pad, high + pad),
            aspect='equal',
        )
        axis.legend(loc='upper left', handletextpad=0.1, markerscale=1.4 if size < 10 else 1)
    return figure


@styled
def equation_of_state(entries: Sequence[Mapping[str, Any]]) -> Any:
    """Draw energy against volume of reference and model, each from the minimum of its own fit."""
    from aiida_mlipal.science.eos import birch_murnaghan
    from aiida_mlipal.science.units import GPA

    figure, axes = new_axes(len(entries), 4.2, 3.1)
    for axis, entry in zip(axes, entries, strict=True):
        for key, colour, marker, name in (('teacher', ACCENT, 'o', 'reference'), ('model', SECOND, 's', 'model')):
            fit = entry.get(key)
            if fit is None:
                continue
            volumes, energies = np.array(fit['volumes']), np.array(fit['energies'])
            smooth = np.linspace(volumes.min(), volumes.max(), 120)
            curve = birch_murnaghan(smooth, fit['v0'], fit['e0'], fit['b0_gpa'] * GPA, fit['b0_prime'])
            label = f'{name}: {fit["a0"]:.4f} Å, {fit["b0_gpa"]:.0f} GPa'
            axis.plot(smooth, 1000 * (curve - fit['e0']), color=colour, ls='-' if key == 'teacher' else (0, (5, 2)))
            axis.plot(volumes, 1000 * (energies - fit['e0']), marker, color=colour, ms=4.5, label=label)
        axis.set(title=entry['formula'], xlabel='volume of the cell (Å³)', ylabel='energy from minimum (meV)')
        axis.legend(loc='upper center')
    return figure


@styled
def label_costs(costs: Sequence[LabelCost]) -> Any:
    """Draw core seconds per label: against the size with the fitted model if sizes differ, else their distribution."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (axis,) = new_axes(1, 4.6, 3.3)
    rows = [(Size(cost.n_electrons, cost.n_kpoints or 1), cost.core_s) for cost in costs if cost.n_electrons]
    rows = [(size, seconds) for size, seconds in rows if seconds > 0]  # what came from a cache cost nothing
    if len({size for size, _ in rows}) < 2:
        axis.hist([cost.core_s for cost in costs], bins='auto', color=ACCENT, alpha=0.8)
        axis.set(xlabel='core time of a label (s)', ylabel='labels')
        return figure
    model = CostModel.fit(*zip(*rows, strict=True))
    counts = sorted({size.n_kpoints for size, _ in rows})
    for n_kpoints, colour in zip(counts, CLASS_COLOURS.values(), strict=False):
        points = np.array([(size.n_electrons, seconds) for size, seconds in rows if size.n_kpoints == n_kpoints])
        label = f'{n_kpoints:g} k-point{"" if n_kpoints == 1 else "s"}'
        axis.scatter(*points.T, s=24, lw=0, alpha=0.6, color=colour, label=label)
        line = np.geomspace(points[:, 0].min(), points[:, 0].max(), 50)
        axis.plot(line, [model.predict(Size(electrons, n_kpoints)) for electrons in line], color=colour, lw=1)
    axis.set(xscale='log', yscale='log', xlabel='electrons', ylabel='core time of a label (s)')
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_major_formatter('{x:g}')
        ticks.set_minor_formatter(NullFormatter())
    exponents = f'electrons$^{{{model.electrons:.1f}}}$ k-points$^{{{model.kpoints:.1f}}}$'
    axis.legend(loc='upper left', title=f'fit: {exponents}', title_fontsize=8.5)
    return figure
