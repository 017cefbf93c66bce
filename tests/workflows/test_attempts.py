"""What a lane has run, task by task."""

from __future__ import annotations

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlipal.workflows.attempts import attempt_label, attempts


def test_attempts_of_a_lane_by_task():
    """Attempts belong to their task, oldest first; jobs count as much as WorkChains, calcfunctions do not."""
    lane = orm.WorkChainNode(process_type='aiida.workflows:mlipal.label_lane').store()
    called = []
    for label, link_type in (
        ('frame_00010', LinkType.CALL_WORK),
        (attempt_label('frame_00010', 2), LinkType.CALL_WORK),
        (attempt_label('frame_00001', 1), LinkType.CALL_CALC),
        (attempt_label('frame_00010', 10), LinkType.CALL_WORK),
    ):
        kind = orm.CalcJobNode if link_type is LinkType.CALL_CALC else orm.WorkChainNode
        node = kind(process_type='aiida.workflows:anything')
        node.base.links.add_incoming(lane, link_type, label)
        called.append(node.store().pk)
    rung = orm.CalcFunctionNode(process_type='aiida.calculations:anything')
    rung.base.links.add_incoming(lane, LinkType.CALL_CALC, 'CALL')
    rung.store()
    found = {task: [node.pk for node in nodes] for task, nodes in attempts(lane).items()}
    assert found == {'frame_00010': [called[0], called[1], called[3]], 'frame_00001': [called[2]]}
