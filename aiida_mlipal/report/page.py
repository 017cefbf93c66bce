"""The page: figures and tables of a record, put into the template."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from aiida_mlipal.report import calibration_figures, figures, pool_figures
from aiida_mlipal.report.collect import Record
from aiida_mlipal.report.style import CLASS_COLOURS
from aiida_mlipal.science.calibration.metrics import LEVELS, metrics

__all__ = ('render',)

#: What each class of a selection means, for the legend of the report.
_MEANING = {
    'selected': 'labelled for training',
    'stream': 'random stream: labelled at random before any filter, never trained on',
    'candidate': 'worth a label, others were preferred',
    'accurate': 'the model is sure of it',
    'agreed': 'a cheap level of theory agrees with the model',
    'duplicate': 'repeats another frame',
    'known': 'labelled before',
    'failed': 'too far from what the model knows',
    'unphysical': 'cannot be a structure',
}
_OUTCOMES = {
    'continue': 'goes on',
    'converged': 'converged: all targets met',
    'no_candidates': 'nothing left to ask',
    'budget_labels': 'label budget spent',
    'budget_iterations': 'iteration budget spent',
    'budget_wall_time': 'time budget spent',
}
#: Rows of the longest tables; the graph holds the rest.
_MAX_ROWS = 60


def render(record: Record) -> str:
    """Return the whole page as HTML. Sections without data are left out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from aiida_mlipal import __version__

    environment = Environment(
        loader=PackageLoader('aiida_mlipal.report', '.'), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(milli=_milli, duration=_duration, short=_short, digits=_digits)
    return environment.get_template('report.html.j2').render(
        record=record,
        status=record.status,
        tiles=_tiles(record),
        gpu_s=_gpu_seconds(record),
        figures=_figures(record),
        curve=_curve(record),
        outcomes=_OUTCOMES,
        calibrations=_calibrations(record),
        selected=_selected(record),
        classes=[(name, colour, _MEANING[name]) for name, colour in CLASS_COLOURS.items()],
        level_of_theory=_flat(record.level_of_theory),
        settings={name: _flat(values) for name, values in record.settings.items()},
        levels=[f'{100 * level:.0f}' for level in LEVELS],
        max_rows=_MAX_ROWS,
        written=datetime.now(UTC),
        version=__version__,
    )


def _milli(value: float | None, digits: int = 1) -> str:
    return '-' if value is None else f'{1000 * value:.{digits}f}'


def _digits(value: float | None, digits: int = 2) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f'{seconds:.1f} s'
    return f'{seconds / 60:.1f} min' if seconds < 6000 else f'{seconds / 3600:.1f} h'


def _short(frame: str) -> str:
    return str(frame)[:9]


def _flat(values: Mapping[str, Any], path: str = '') -> list[tuple[str, str]]:
    """Return nested values as rows ``('system.ecutwfc', '16')``."""
    rows = []
    for key, value in values.items():
        name = f'{path}.{key}' if path else str(key)
        rows += _flat(value, name) if isinstance(value, Mapping) and value else [(name, str(value))]
    return rows


def _curve(record: Record) -> list[dict[str, Any]]:
    """Return one row per model: on the common test set once validated, else on the test frames of its iteration."""
    if record.validation:
        return [
            {
                'model': point['model'],
                'size': record.training_sizes.get(point['model']),
                'force': point['force_rmse'],
                'energy': point['energy_rmse_per_atom'],
            }
            for point in record.validation['learning_curve']
        ]
    rows = []
    for decision in record.status.decisions:
        model = f'iteration_{decision["iteration"]:02d}'
        errors = decision['errors']
        size = record.training_sizes.get(model)
        rows.append({'model': model, 'size': size, 'force': errors['force_rmse'], 'energy': errors['energy_mae']})
    return rows


def _tiles(record: Record) -> list[tuple[str, str, str]]:
    """Return the figures on top of the page: name, value, remark."""
    status, curve = record.status, _curve(record)
    tiles = [('state', status.state, _OUTCOMES.get(status.last.get('outcome', ''), ', '.join(status.stages)))]
    tiles.append(('iterations', str(len(status.decisions)), f'of at most {status.budget.get("max_iterations", "-")}'))
    failed = f', {status.labels.failed} failed' if status.labels.failed else ''
    tiles.append(('labels', str(status.labels.done), f'of {status.labels.total} asked for{failed}'))
    if curve and curve[-1]['force'] is not None:
        first = curve[0]['force']
        remark = f'{curve[-1]["force"] / first:.0%} of the first model' if first and len(curve) > 1 else ''
        tiles.append(('force RMSE', f'{_milli(curve[-1]["force"])} meV/Å', remark))
        tiles.append(('energy error', f'{_milli(curve[-1]["energy"], 2)} meV/atom', 'on random frames'))
    for entry in record.validation.get('eos', []):
        if 'teacher' in entry:
            remark = f'{entry["formula"]}: {entry["model"]["a0"]:.4f} Å, reference {entry["teacher"]["a0"]:.4f} Å'
            tiles.append(('lattice constant', f'{entry["deviation_percent"]:+.2f} %', remark))
    tiles.append(('core time', _duration(sum(cost.core_s for cost in record.costs)), 'of all jobs'))
    gpu_s = _gpu_seconds(record)
    if gpu_s:
        tiles.append(('GPU time', _duration(gpu_s), 'of all jobs'))
    return tiles


def _gpu_seconds(record: Record) -> float:
    return sum(cost.gpu_s for cost in record.costs)


def _figures(record: Record) -> dict[str, str]:
    """Return the SVG of every figure that there is data for."""
    drawn: dict[str, str] = {}
    curve = [point for point in _curve(record) if point['size'] is not None]
    if curve:
        columns = [[point[name] for point in curve] for name in ('size', 'force', 'energy')]
        drawn['learning_curve'] = figures.learning_curve(*columns, record.settings.get('convergence', {}))
    if record.comparison:
        drawn['arms'] = figures.arms(record.comparison)
    if record.predictions is not None:
        drawn['parity'] = figures.parity(record.predictions)
        values = record.predictions.uncertainty
        if np.isfinite(values).all() and (values > 0).all():
            drawn['uncertainty'] = calibration_figures.uncertainty(record.predictions)
            drawn['reliability_curve'] = calibration_figures.reliability_curve(record.predictions)
    if record.status.coverage:
        drawn['coverage'] = calibration_figures.coverage(record.status.coverage)
    selections = [selection for selection in record.selections if len(selection.columns['frame_id'])]
    if selections:
        drawn['class_bars'] = pool_figures.class_bars(selections)
        drawn['descriptor_maps'] = pool_figures.descriptor_maps(selections[-6:])
    if any('grades' in drift['pool'] for drift in record.drifts):
        drawn['drift'] = pool_figures.drift(record.drifts)
    if record.status.costs:
        drawn['label_costs'] = figures.label_costs(record.status.costs)
    if any('teacher' in entry for entry in record.validation.get('eos', [])):
        drawn['equation_of_state'] = figures.equation_of_state(record.validation['eos'])
    return drawn


def _calibrations(record: Record) -> list[tuple[str, dict[str, Any]]]:
    """Return how good the uncertainties are, on the frames that they were calibrated on and on test frames."""
    predictions = record.predictions
    if predictions is None or predictions.calibration is None:
        return []
    found = [('calibration', predictions.calibration.metrics)]
    if (predictions.frames.role == 'test').any():
        _, expected, errors = predictions.on_test_atoms()
        found.append(('test', metrics(expected, errors, predictions.calibration.lower)))
    return found


def _selected(record: Record) -> list[dict[str, Any]]:
    """Return one row per frame that was chosen for a label, newest iteration first."""
    rows = []
    for selection in reversed(record.selections):
        columns = selection.columns
        taken = np.flatnonzero(columns['rank'] >= 0)
        for row in taken[np.argsort(columns['rank'][taken], kind='stable')]:
            rows.append(
                {
                    'iteration': selection.iteration + 1,
                    'frame_id': columns['frame_id'][row],
                    'klass': columns['klass'][row],
                    'calibrated': _finite(columns['calibrated'][row]),
                    'distance': _finite(columns['distance'][row]),
                    'reason': columns['reason'][row],
                }
            )
    return rows


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
