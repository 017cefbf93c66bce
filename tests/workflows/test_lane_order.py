"""Which lane labels what, and in which order: longest first, near the best there is, and the same after a restart."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import Process
from aiida.engine.persistence import AiiDAPersister
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st
from plumpy.persistence import LoadSaveContext

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.label import LabelWorkChain, _distribute
from aiida_mlipal.workflows.lane import LabelLaneWorkChain

SIZES = (1, 3, 4, 2, 3, 2)


def _best(costs: list[float], n_lanes: int) -> float:
    """Return the shortest time in which all can be done, by trying every way to spread them."""
    return min(
        max(sum(cost for cost, lane in zip(costs, lanes, strict=True) if lane == own) for own in range(n_lanes))
        for lanes in itertools.product(range(n_lanes), repeat=len(costs))
    )


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=7), st.integers(1, 3))
def test_lanes_are_nearly_the_best_there_are(values, n_lanes):
    """Graham's bound for LPT (SIAM J. Appl. Math. 17, 416 (1969)): 4/3 - 1/(3 m) of the best."""
    costs = {f'frame_{index:05d}': cost for index, cost in enumerate(values)}
    lanes = _distribute(costs, n_lanes)
    longest = max(sum(costs[label] for label in lane) for lane in lanes)
    assert longest <= (4 / 3 - 1 / (3 * n_lanes)) * _best(values, n_lanes) * (1 + 1e-9)


@given(st.lists(st.floats(1e-3, 1e6), max_size=60), st.integers(1, 40), st.randoms(use_true_random=False))
def test_lanes_hold_each_task_once_the_longest_first(values, n_lanes, random):
    costs = {f'frame_{index:05d}': cost for index, cost in enumerate(values)}
    lanes = _distribute(costs, n_lanes)
    assert sorted(label for lane in lanes for label in lane) == sorted(costs)
    assert len(lanes) == min(n_lanes, len(costs))
    assert all(lanes), 'no lane is empty'
    for lane in lanes:
        assert [costs[label] for label in lane] == sorted((costs[label] for label in lane), reverse=True)
    shuffled = list(costs)
    random.shuffle(shuffled)
    assert _distribute({label: costs[label] for label in shuffled}, n_lanes) == lanes


def _rebuilt(process: Process) -> Any:
    """Return ``process`` as another daemon worker would find it: written down, let go, and read again."""
    AiiDAPersister().save_checkpoint(process)
    process.close()
    bundle = AiiDAPersister().load_checkpoint(process.pid)
    return bundle.unbundle(LoadSaveContext(loop=asyncio.new_event_loop(), runner=get_manager().get_runner()))


def _end(process: Process) -> None:
    """Leave nothing that counts as alive."""
    process.close()
    process.node.set_process_state('killed')
    process.node.seal()


@pytest.mark.codes
def test_the_order_survives_a_checkpoint(quick_pw_label, monkeypatch):
    """A labelling read from its checkpoint has the lanes it had planned, and a lane goes on with what is left."""
    rng = np.random.default_rng(8)
    frames = [bulk('Si', a=5.43) * (repeat, 1, 1) for repeat in SIZES]
    for frame in frames:
        frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
    inputs = {'configurations': ConfigurationsData(Configurations.from_atoms(frames)), 'reuse': orm.Bool(False)}
    runner = get_manager().get_runner()
    labelling: Any = instantiate_process(runner, LabelWorkChain, **inputs, **quick_pw_label)
    labelling.describe_level_of_theory()
    labelling.find_known_labels()
    labelling.plan_chunk()
    plan = [list(lane) for lane in labelling.ctx.plan]
    sizes = [[SIZES[int(label.removeprefix('frame_'))] for label, *_ in lane] for lane in plan]
    assert len(plan) == 2
    assert sizes == [sorted(lane, reverse=True) for lane in sizes], 'the largest cells come first'
    assert {lane[0] for lane in sizes} == {4, 3}
    labelling = _rebuilt(labelling)
    assert [list(lane) for lane in labelling.ctx.plan] == plan

    submitted: list[dict[str, Any]] = []
    monkeypatch.setattr(labelling, 'submit', lambda _, **inputs: submitted.append(inputs) or labelling.node)
    monkeypatch.setattr(labelling, 'to_context', lambda **_: None)
    labelling.run_chunk()
    assert [list(inputs['tasks']) for inputs in submitted] == plan
    for inputs in submitted:
        tasks = inputs['tasks']
        lane: Any = instantiate_process(runner, LabelLaneWorkChain, **{**inputs, 'metadata': {}})
        lane.setup()
        lane.ctx.waiting.pop(0)  # the first task is done
        lane = _rebuilt(lane)
        assert lane.ctx.waiting == [label for label, *_ in tasks[1:]]
        assert [list(task) for task in lane.inputs.tasks] == [list(task) for task in tasks]
        for label, pks, _ in tasks[1:]:
            assert {name: node.pk for name, node in lane._task(label).items()} == pks
        _end(lane)
    _end(labelling)
