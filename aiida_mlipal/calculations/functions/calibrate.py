"""Calibrate the uncertainty, and check on new labels that the calibration held."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.science.calibration import Calibration, calibrate
from aiida_mlipal.science.calibration.coverage import check_coverage
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('calibrate_uncertainty', 'check_calibration', 'fitted_calibration')


@calcfunction
def calibrate_uncertainty(dataset: ConfigurationsData, evaluation: EvaluationData, selection: orm.Dict) -> orm.Dict:
    """Return the calibration of the uncertainty and the trust window that follows from it.

    Fitted on the ``calibration`` half of the random stream alone. While that is empty, as in the first iteration, the
    result says so, and no window is applied.
    """
    settings = from_dict(SelectionSettings, selection.get_dict())
    calibration = calibrate(
        dataset.configurations,
        evaluation.evaluation,
        lower_factor=settings.lower_factor,
        upper_factor=settings.upper_factor,
        uncertainty=settings.uncertainty,
        decay=settings.calibration_decay,
    )
    return orm.Dict({'fitted': calibration is not None, **(calibration.to_dict() if calibration else {})})


def fitted_calibration(node: orm.Dict) -> Calibration | None:
    """Return the calibration that :func:`calibrate_uncertainty` stored, or None if there was nothing to fit."""
    values = node.get_dict()
    return Calibration.from_dict(values) if values.pop('fitted') else None


@calcfunction
def check_calibration(
    labels: ConfigurationsData,
    pool_evaluation: EvaluationData,
    selection: SelectionData,
    calibration: orm.Dict,
    previous: orm.Dict | None = None,
) -> orm.Dict:
    """Return how many new labels of the random stream are within the intervals that were known before them.

    ``selection`` holds the errors that ``calibration`` expected of them. ``previous`` is the check of the iteration
    before, whose counts are added. Without a calibration, as in the first iteration, nothing is tested.
    """
    fitted = fitted_calibration(calibration)
    decision = selection.decision
    frames = labels.configurations
    new = frames.take(frames.has_role('calibration', 'test') & (frames.status != 'unlabelled'))
    if fitted is None or len(new) == 0:
        why = 'there was no calibration yet' if fitted is None else 'no frame of the random stream was labelled'
        return orm.Dict({'tested': False, 'alarm': False, 'messages': [f'Nothing was tested: {why}.']})
    rows = {str(frame): row for row, frame in enumerate(decision.frame_id)}
    expected = decision.calibrated[[rows[str(frame)] for frame in new.frame_id]]
    earlier = previous.get_dict() if previous is not None else None
    return orm.Dict(check_coverage(fitted, new, pool_evaluation.evaluation, expected, earlier))
