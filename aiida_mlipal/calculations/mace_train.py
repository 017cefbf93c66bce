"""CalcJob that trains a committee of MACE models in one job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiida.engine import CalcJobProcessSpec
from aiida.orm import ArrayData, Dict

from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import DATASET, reference_energies, split
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('MaceTrainCalculation',)


class MaceTrainCalculation(RunnerCalculation):
    """Train one MACE model per seed on the labelled frames with role ``train``.

    The energies of the atoms come from labelled frames with role ``isolated_atom``, the lowest over multiplicities.
    A member that fails does not take the others down: exit code 410 names it, the outputs of the others are there, and
    a caller may train it again alone with ``seeds: [its seed]``.
    """

    _RUNNER = 'train'
    _ENTRY_POINT = 'mlipal.mace.train'
    _SETTINGS = TrainingSettings
    _RETRIEVE = (('member_*/train.log', '.', 2), ('member_*/results/*_train.txt', '.', 3))
    _RETRIEVE_TEMPORARY = ('member_*.model',)
    CACHE_VERSION = 1

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, outputs and exit codes."""
        super().define(spec)
        spec.input('dataset', valid_type=ConfigurationsData, help='Labelled frames.')
        spec.inputs.validator = cls._validate_inputs
        spec.output_namespace(
            'models', valid_type=MlipModelData, dynamic=True, help='One model per member: member_00, member_01, ...'
        )
        spec.output(
            'results',
            valid_type=Dict,
            help='Per member: seed, errors on training and validation frames, best epoch, wall time, or why it failed; '
            'energies of the atoms; identities of the validation frames.',
        )
        spec.output(
            'history',
            valid_type=ArrayData,
            required=False,
            help='Validation errors by epoch: member_00_epoch, member_00_loss, member_00_force_rmse (eV/Å), ...',
        )
        spec.exit_code(
            400, 'ERROR_ALL_MEMBERS_FAILED', message='no member could be trained: {reasons}', invalidates_cache=True
        )
        spec.exit_code(
            410,
            'ERROR_SOME_MEMBERS_FAILED',
            message='{failed} could not be trained, the other members are there: {reasons}',
            invalidates_cache=True,
        )

    @staticmethod
    def _validate_inputs(inputs: Any, _: Any) -> str | None:
        """Refuse data that cannot be trained with before anything is submitted."""
        if 'settings' not in inputs or 'dataset' not in inputs:
            return None  # reported by the ports themselves
        try:
            settings = from_dict(TrainingSettings, inputs['settings'].get_dict())
            configurations = inputs['dataset'].configurations
            split(configurations, settings)
            reference_energies(configurations, settings)
        except (TypeError, ValueError) as exception:
            return str(exception)
        return None

    def write_inputs(self, folder: Path) -> None:
        """Write the labelled frames."""
        configurations = self.inputs.dataset.configurations
        configurations.take(configurations.has_role('train', 'isolated_atom')).save(folder / DATASET)
