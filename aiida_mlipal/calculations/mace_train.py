"""CalcJob that trains a committee of MACE models in one job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from aiida.engine import CalcJobProcessSpec
from aiida.orm import ArrayData, Dict

from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.level_of_theory import difference
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import DATASET, OTHER, head_data, other_head
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('MERGE', 'MaceTrainCalculation', 'other_dataset_problems')

MERGE: Final = 'join both sets with `merge_datasets`'


def other_dataset_problems(
    others: Mapping[str, ConfigurationsData],
    settings: TrainingSettings,
    *,
    level: Mapping[str, Any] | None,
    elements: Collection[int],
    mend: str,
) -> list[str]:
    """Return why some of the other datasets cannot have a head of their own.

    :param level: level of theory of the main labels; ``None`` if they have none.
    :param elements: atomic numbers of the main frames.
    :param mend: what to do with a dataset of the main level.
    """
    declare = 'give it one, `ConfigurationsData(frames, level_of_theory={...})`.'
    problems = []
    if others and level is None:
        problems.append(f'`dataset` has no level of theory, so it cannot be told from `other_datasets`: {declare}')
    for name in sorted(others):
        own, what = others[name].level_of_theory, f'`other_datasets.{name}`: node {others[name].pk}'
        if own is None:
            problems.append(f'{what} has no level of theory, so nobody knows what its labels mean: {declare}')
        elif level is not None and not difference(level, own):
            problems.append(f'{what} has the level of theory of the main labels and needs no head of its own: {mend}.')
        else:
            try:
                other_head(name, others[name].configurations, settings, elements)
            except ValueError as exception:
                problems.append(str(exception))
    return problems


class MaceTrainCalculation(RunnerCalculation):
    """Train one MACE model per seed on the labelled frames with role ``train``.

    The energies of the atoms come from labelled frames with role ``isolated_atom``, the lowest over multiplicities.
    Labels of other levels of theory never meet those of ``dataset``: each of ``other_datasets`` gets a head of its own.
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
        spec.input_namespace(
            'other_datasets',
            dynamic=True,
            valid_type=ConfigurationsData,
            required=False,
            help='Labelled frames of other levels of theory, by the names of the heads that learn them.',
        )
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
            dataset, others = inputs['dataset'], inputs.get('other_datasets', {})
            main = dataset.configurations
            head_data(main, {}, settings)
            problems = other_dataset_problems(
                others, settings, level=dataset.level_of_theory, elements=main.numbers, mend=MERGE
            )
            if problems:
                return ' '.join(problems)
            head_data(main, {name: node.configurations for name, node in others.items()}, settings)
        except (TypeError, ValueError) as exception:
            return str(exception)
        return None

    def write_inputs(self, folder: Path) -> None:
        """Write the labelled frames, one file per level of theory."""
        files = {f'{OTHER}{name}.npz': node for name, node in self.inputs.get('other_datasets', {}).items()}
        for name, node in {DATASET: self.inputs.dataset, **files}.items():
            frames = node.configurations
            frames.take(frames.has_role('train', 'isolated_atom')).save(folder / name)
