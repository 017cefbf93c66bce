"""CalcJob that trains a committee of MACE models in one job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec
from aiida.orm import ArrayData, Dict, RemoteData

from aiida_mlipal.calculations.foundation import (
    declare_foundation,
    foundation_problems,
    settings_decided,
    write_foundation,
)
from aiida_mlipal.calculations.runner import RunnerCalculation
from aiida_mlipal.calculations.warm_start import declare_start, start_problem, write_start
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.level_of_theory import difference
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import CHECKPOINTS, DATASET, OTHER, head_data, other_head
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('MERGE', 'MaceTrainCalculation', 'other_dataset_problems', 'unfit_training')

MERGE: Final = 'join both sets with `merge_datasets`'
#: Of the frames that leave for the compute node.
_ROLES: Final = ('train', 'validation', 'isolated_atom')


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


def unfit_training(
    dataset: ConfigurationsData,
    others: Mapping[str, ConfigurationsData],
    settings: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> str | None:
    """Return why ``settings`` cannot train on these datasets, ``None`` if they can.

    :param others: datasets of other levels of theory, by the names of their heads.
    :param inputs: those of the training, for the model that it starts from.
    """
    try:
        options = settings_decided(from_dict(TrainingSettings, settings), inputs.get('foundation_model'))
        main = dataset.configurations
        learned = head_data(main, {}, options)[MAIN_HEAD]
        problems = foundation_problems(
            inputs, settings, options, level=dataset.level_of_theory, elements=main.numbers, main=learned
        )
        problems += other_dataset_problems(
            others, options, level=dataset.level_of_theory, elements=main.numbers, mend=MERGE
        )
        if problems:
            return ' '.join(problems)
        head_data(main, {name: node.configurations for name, node in others.items()}, options)
    except (TypeError, ValueError) as exception:
        return str(exception)
    return None


class MaceTrainCalculation(RunnerCalculation):
    """Train one MACE model per seed on the labelled frames with role ``train``.

    The energies of the atoms come from labelled frames with role ``isolated_atom``, the lowest over multiplicities.
    Labels of other levels of theory never meet those of ``dataset``: each of ``other_datasets`` gets a head of its own.
    A member that fails does not take the others down: exit code 410 names it, the outputs of the others are there, and
    a caller may train it again alone with ``seeds: [its seed]``. With ``previous``, the working directory of a job that
    did not come to its end, each member goes on where that one left it.
    """

    _RUNNER = 'train'
    _ENTRY_POINT = 'mlipal.mace.train'
    _SETTINGS = TrainingSettings
    _RETRIEVE = (('member_*/train.log', '.', 2), ('member_*/results/*_train.txt', '.', 3))
    _RETRIEVE_TEMPORARY = ('member_*.model',)
    CACHE_VERSION = 3

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
        declare_foundation(spec)
        declare_start(spec)
        spec.input(
            'previous',
            valid_type=RemoteData,
            required=False,
            help='Working directory of an earlier training of the same data, whose checkpoints are copied.',
        )
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

    @classmethod
    def unused_gpus(cls, gpus: int, settings: dict[str, Any]) -> str | None:
        """Return why so many GPUs would stay idle, or are too few for one member."""
        options = from_dict(TrainingSettings, settings)
        if options.device != 'cuda':
            return super().unused_gpus(gpus, settings)
        each, members = options.gpus_per_member, min(len(options.seeds), options.max_parallel)
        if gpus > members * each:
            return (
                f'`gpus` is {gpus}, but {members} of the {len(options.seeds)} members are trained at the same time, '
                f'each on {"one GPU" if each == 1 else f"{each} GPUs"}: set `gpus: {members * each}`, or raise '
                '`max_parallel`, the number of members or `gpus_per_member`.'
            )
        if gpus % each:
            more = -gpus % each
            return (
                f'`gpus` is {gpus}, but each member is trained on {each} (`gpus_per_member`): set `gpus: {gpus + more}`'
                f' or `gpus_per_member: {gpus}`.'
            )
        return None

    @classmethod
    def _validate_inputs(cls, inputs: Any) -> str | None:
        """Refuse data that cannot be trained with before anything is submitted."""
        if 'settings' not in inputs or 'dataset' not in inputs:
            return None  # reported by the ports themselves
        if 'previous' in inputs and 'code' in inputs and inputs['code'].computer is not None:
            there, here = inputs['previous'].computer, inputs['code'].computer
            if there.uuid != here.uuid:
                return (
                    f'`previous` lies on the computer `{there.label}`, the code runs on `{here.label}`: use a code on '
                    f'`{there.label}`, or leave `previous` out and train from the beginning.'
                )
        others, settings = inputs.get('other_datasets', {}), inputs['settings'].get_dict()
        return unfit_training(inputs['dataset'], others, settings, inputs) or start_problem(inputs, settings)

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Have stored datasets copied as they are, without reading them, and the checkpoints of an earlier job.

        These are never linked, since MACE removes old ones.
        """
        info = super().prepare_for_submission(folder)
        files = self._datasets().items()
        info.local_copy_list = [(node.uuid, node.FILE, name) for name, node in files if _travels_as_stored(node)]
        if 'previous' in self.inputs:
            previous = self.inputs.previous
            path = str(Path(previous.get_remote_path(), CHECKPOINTS))
            info.remote_copy_list = [(previous.computer.uuid, path, CHECKPOINTS)]
        return info

    def write_inputs(self, folder: Path) -> None:
        """Write the labelled frames, one file per level of theory, without those of the random stream."""
        for name, node in self._datasets().items():
            if not _travels_as_stored(node):
                frames = node.configurations
                frames.take(frames.has_role(*_ROLES)).save(folder / name)
        write_foundation(self.inputs, folder)
        write_start(self.inputs, folder)

    def _datasets(self) -> dict[str, ConfigurationsData]:
        """Return all datasets by the names of their files."""
        others = self.inputs.get('other_datasets', {})
        return {DATASET: self.inputs.dataset, **{f'{OTHER}{name}.npz': node for name, node in others.items()}}


def _travels_as_stored(node: ConfigurationsData) -> bool:
    """Return whether a node holds nothing but what a training may see."""
    return node.is_one_file and set(node.base.attributes.get('roles')) <= set(_ROLES)
