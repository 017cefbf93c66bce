"""Lanes for one campaign, for many beside each other, and for one that comes late."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessState

from aiida_mlipal.workflows.concurrency import LANES_BESIDE_OTHERS, SLOTS_PER_LANE, allowed_lanes

SLOTS = 200  # AiiDA's default for one worker


@pytest.fixture
def others() -> Iterator[list[orm.ProcessNode]]:
    """Give a list for live processes; they have ended after the test."""
    nodes: list[orm.ProcessNode] = []
    yield nodes
    for node in nodes:
        node.set_process_state(ProcessState.KILLED)
        node.seal()


def _live(nodes: list, label: str, caller: orm.WorkChainNode | None = None, kind: type = orm.WorkChainNode):
    node = kind()
    node.set_process_type('aiida.workflows:mlipal.label_lane')
    node.set_process_label(label)
    node.set_process_state(ProcessState.WAITING)
    if caller is not None:
        work = issubclass(kind, orm.WorkflowNode)
        node.base.links.add_incoming(caller, LinkType.CALL_WORK if work else LinkType.CALL_CALC, 'call')
    nodes.append(node.store())
    return node


def _campaign(nodes: list, n_lanes: int, started: bool) -> None:
    for _ in range(n_lanes):
        lane = _live(nodes, 'LabelLaneWorkChain')
        if started:
            base = _live(nodes, 'PwBaseWorkChain', lane)
            _live(nodes, 'PwCalculation', base, orm.CalcJobNode)


def test_one_campaign_takes_40_percent(others):
    assert allowed_lanes(3) == 3
    assert allowed_lanes(1000) == int(0.4 * SLOTS) // SLOTS_PER_LANE


@pytest.mark.parametrize('started', [False, True])
def test_lanes_count_with_all_that_they_will_start(others, started):
    """Lanes that have not yet submitted anything take the same slots as those that have."""
    _campaign(others, 10, started)
    assert allowed_lanes(1000) == (int(0.4 * SLOTS) - 30) // SLOTS_PER_LANE


def test_many_campaigns_never_fill_the_daemon_and_none_starves(others):
    """Each gets a few lanes until 80 % of the slots are taken, then one."""
    given = []
    for _ in range(12):
        _live(others, 'LabelWorkChain')
        given.append(allowed_lanes(32))
        _campaign(others, given[-1], started=False)
    assert given[0] == 26
    assert all(lanes >= LANES_BESIDE_OTHERS for lanes in given[:6])
    assert all(lanes >= 1 for lanes in given)
    assert sum(given) * SLOTS_PER_LANE + len(given) < SLOTS
