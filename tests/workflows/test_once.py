"""A step that AiiDA repeats after a crash does not submit its children again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from aiida import orm
from aiida.common.links import LinkType
from plumpy import ProcessState

from aiida_mlipal.workflows.once import submit_once


class Parent:
    """As much of a WorkChain as submits children, which it leaves in a given state."""

    def __init__(self, state: ProcessState) -> None:
        self.node = orm.WorkChainNode().store()
        self.state = state
        self.submitted: list[dict] = []
        self.children: list[orm.ProcessNode] = []

    def submit(self, process: type, **inputs: object) -> orm.ProcessNode:
        self.submitted.append(inputs)
        child = orm.WorkChainNode()
        child.set_process_state(self.state)
        child.base.links.add_incoming(self.node, LinkType.CALL_WORK, inputs['metadata']['call_link_label'])
        self.children.append(child.store())
        return child

    def report(self, message: str) -> None:
        pass


@pytest.fixture
def parent() -> Iterator[Callable[[ProcessState], Parent]]:
    """Return a function that makes parents, whose children have ended after the test."""
    parents: list[Parent] = []

    def make(state: ProcessState) -> Parent:
        parents.append(Parent(state))
        return parents[-1]

    yield make
    for child in (child for made in parents for child in made.children):
        child.set_process_state(ProcessState.KILLED)
        child.seal()


@pytest.mark.parametrize('state', [ProcessState.RUNNING, ProcessState.WAITING, ProcessState.FINISHED])
def test_a_child_that_runs_or_has_run_is_taken(parent, state):
    mine, other = parent(state), parent(state)
    first = submit_once(mine, 'frame_00001', object, {'x': 1, 'metadata': {'label': 'mine'}})
    assert mine.submitted == [{'x': 1, 'metadata': {'label': 'mine', 'call_link_label': 'frame_00001'}}]
    assert submit_once(mine, 'frame_00001', object, {}).pk == first.pk
    assert submit_once(mine, 'frame_00001_attempt_2', object, {}).pk != first.pk
    assert submit_once(other, 'frame_00001', object, {}).pk != first.pk, 'of another parent'
    assert len(mine.submitted) == 2


def test_a_child_that_was_never_started_is_submitted_again(parent):
    mine = parent(ProcessState.CREATED)
    first = submit_once(mine, 'frame_00001', object, {})
    assert submit_once(mine, 'frame_00001', object, {}).pk != first.pk
