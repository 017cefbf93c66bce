"""What a campaign returns, and how it can end."""

from __future__ import annotations

from typing import Any

from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.data.selection import SelectionData

__all__ = ('define_outputs',)


def define_outputs(spec: Any) -> None:
    """Declare outputs and exit codes of :class:`.active_learning.ActiveLearningWorkChain`."""
    spec.output('model', valid_type=MlipModelData, required=False, help='The final committee.')
    spec.output('dataset', valid_type=ConfigurationsData, required=False, help='All frames with their labels.')
    spec.output('decision', valid_type=orm.Dict, required=False, help='The last decision: why the campaign ended.')
    spec.output('validation', valid_type=orm.Dict, required=False, help='Learning curve and equations of state.')
    for namespace, valid_type in (
        ('models', MlipModelData),
        ('selections', SelectionData),
        ('calibrations', orm.Dict),
        ('coverage', orm.Dict),
        ('decisions', orm.Dict),
        ('drifts', orm.Dict),
    ):
        spec.output_namespace(namespace, dynamic=True, valid_type=valid_type, help=f'{namespace} by iteration.')
    spec.exit_code(410, 'ERROR_SEEDS_FAILED', message='No seeds to start from. {reason}')
    spec.exit_code(420, 'ERROR_LABELS_FAILED', message='Labelling failed. {reason}')
    spec.exit_code(430, 'ERROR_TRAINING_FAILED', message='Training failed. {reason}')
    spec.exit_code(440, 'ERROR_EXPLORATION_FAILED', message='Exploration failed. {reason}')
    spec.exit_code(450, 'ERROR_EVALUATION_FAILED', message='Evaluating the committee failed. {reason}')
    spec.exit_code(460, 'ERROR_VALIDATION_FAILED', message='Validation failed. {reason}')
