"""One committee from members that were trained one by one."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = (
    'assemble_committee',
    'settings_of_failed_members',
    'settings_with_less_memory',
    'settings_with_lower_rates',
    'training_dataset',
)


@calcfunction
def assemble_committee(**members: MlipModelData) -> MlipModelData:
    """Return the committee of ``members``, in the order of their seeds."""
    return MlipModelData.committee(sorted(members.values(), key=lambda member: member.seeds))


def training_dataset(committee: MlipModelData) -> ConfigurationsData:
    """Return the frames that the members of a committee were trained on."""
    member = committee.creator.base.links.get_incoming(node_class=MlipModelData).first().node
    dataset: ConfigurationsData = member.creator.inputs.dataset
    return dataset


@calcfunction
def settings_of_failed_members(settings: orm.Dict, results: orm.Dict) -> orm.Dict:
    """Return training settings for those members alone that failed in a first job."""
    failed = [member['seed'] for member in results['members'].values() if member['status'] == 'failed']
    return orm.Dict({**settings.get_dict(), 'seeds': failed})


@calcfunction
def settings_with_less_memory(settings: orm.Dict) -> orm.Dict:
    """Return training settings that need less memory: one member at a time, which changes no result; then half a batch.

    :raises ValueError: if there is no smaller batch.
    """
    given = settings.get_dict()
    options = from_dict(TrainingSettings, given)
    if min(options.max_parallel, len(options.seeds)) > 1:
        return orm.Dict({**given, 'max_parallel': 1})
    if options.batch_size == 1:
        raise ValueError('a batch of one frame cannot be made smaller.')
    smaller = {'batch_size': options.batch_size // 2}
    if options.valid_batch_size:
        smaller['valid_batch_size'] = max(1, options.valid_batch_size // 2)
    return orm.Dict({**given, **smaller})


@calcfunction
def settings_with_lower_rates(settings: orm.Dict) -> orm.Dict:
    """Return training settings with a tenth of the learning rates."""
    given = settings.get_dict()
    options = from_dict(TrainingSettings, given)
    return orm.Dict({**given, 'lr': options.lr / 10, 'stage_two_lr': options.stage_two_lr / 10})
