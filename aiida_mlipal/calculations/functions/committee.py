"""One committee from members that were trained one by one."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.model import MlipModelData

__all__ = ('assemble_committee', 'settings_of_failed_members')


@calcfunction
def assemble_committee(**members: MlipModelData) -> MlipModelData:
    """Return the committee of ``members``, in the order of their seeds."""
    return MlipModelData.committee(sorted(members.values(), key=lambda member: member.seeds))


@calcfunction
def settings_of_failed_members(settings: orm.Dict, results: orm.Dict) -> orm.Dict:
    """Return training settings for those members alone that failed in a first job."""
    failed = [member['seed'] for member in results['members'].values() if member['status'] == 'failed']
    return orm.Dict({**settings.get_dict(), 'seeds': failed})
