"""How far a labelling has come while several frames share a job."""

from __future__ import annotations

import numpy as np
from aiida import orm
from aiida.common.links import LinkType
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.label_progress import LabelCounts, label_counts
from aiida_mlipal.provenance.processes import called_by
from aiida_mlipal.science.configurations import Configurations


def _called(kind: type, caller: orm.Node | None, label: str, name: str, state: str, **attributes: object) -> orm.Node:
    node = kind()
    node.set_process_label(name)
    node.set_process_state(state)
    node.base.attributes.set_many(attributes)
    if caller is not None:
        link = LinkType.CALL_CALC if kind is orm.CalcJobNode else LinkType.CALL_WORK
        node.base.links.add_incoming(caller, link, label)
    return node.store()


def test_frames_that_share_a_job_are_counted_one_by_one(aiida_localhost) -> None:
    """One job under way, one ended with a frame undone, which runs alone now, one whose frames wait."""
    frames = ConfigurationsData(Configurations.from_atoms([bulk('Si', a=5.4 + index / 100) for index in range(9)]))
    campaign = _called(orm.WorkChainNode, None, '', 'Campaign', 'waiting')
    labelling = orm.WorkChainNode()
    labelling.set_process_label('LabelWorkChain')
    labelling.set_process_state('waiting')
    labelling.base.links.add_incoming(campaign, LinkType.CALL_WORK, 'label')
    labelling.base.links.add_incoming(frames.store(), LinkType.INPUT_WORK, 'configurations')
    labelling.store()
    lanes = [
        _called(orm.WorkChainNode, labelling, f'lane_{number}', 'LabelLaneWorkChain', 'waiting') for number in range(2)
    ]
    names = [f'frame_{index:05d}' for index in range(9)]
    shared = 'PwBatchCalculation'
    _called(orm.CalcJobNode, lanes[0], 'shared_001', shared, 'waiting', frames=names[:3])
    ended = _called(orm.CalcJobNode, lanes[1], 'shared_001', shared, 'finished', frames=names[3:6], exit_status=310)
    labels = orm.ArrayData(np.zeros(2))
    labels.base.attributes.set('frames', names[3:5])
    labels.base.links.add_incoming(ended, LinkType.CREATE, 'labels')
    labels.store()
    _called(orm.WorkChainNode, lanes[1], names[5], 'PwBaseWorkChain', 'waiting')

    processes = called_by(campaign)
    (own,) = (process for process in processes if process.pk == labelling.pk)
    counts, paid = label_counts(own, processes)
    assert counts == LabelCounts(done=2, running=4, waiting=3)
    assert paid == 9
