"""Monitors of running jobs."""

from __future__ import annotations

import json

import pytest
from aiida.common.links import LinkType
from aiida.engine.processes.calcjobs.monitors import CalcJobMonitor
from aiida.orm import CalcJobNode, Dict

from aiida_mlipal.calculations.monitors import training_plateau


def _job(computer, folder, **settings):
    node = CalcJobNode(computer=computer, process_type='aiida.calculations:mlipal.mace.train')
    node.base.links.add_incoming(Dict({'seeds': [1], **settings}).store(), LinkType.INPUT_CALC, 'settings')
    node.set_remote_workdir(str(folder))
    return node


@pytest.fixture
def job(aiida_localhost, tmp_path):
    return _job(aiida_localhost, tmp_path)


def _write(folder, name, losses):
    path = folder / name / 'results' / f'{name}_run-1_train.txt'
    path.parent.mkdir(parents=True)
    records = [{'mode': 'eval', 'epoch': None, 'loss': 99.0, 'head': 'Default'}]
    records += [{'mode': 'eval', 'epoch': i, 'loss': loss, 'head': 'Default'} for i, loss in enumerate(losses)]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


def test_members_on_a_plateau_are_stopped(job, tmp_path, aiida_localhost):
    _write(tmp_path, 'member_00', [3.0, 1.0, 2.0, 2.0, 2.0])
    _write(tmp_path, 'member_01', [3.0, 1.0, 2.0, 2.0])
    _write(tmp_path, 'member_02', [])
    with aiida_localhost.get_transport() as transport:
        assert training_plateau(job, transport, patience_epochs=3) is None
        assert sorted(path.parent.name for path in tmp_path.glob('member_*/STOP')) == ['member_00']
        assert training_plateau(job, transport, patience_epochs=2) is None
        assert sorted(path.parent.name for path in tmp_path.glob('member_*/STOP')) == ['member_00', 'member_01']
    assert not (tmp_path / 'STOP').exists()


def test_each_stage_has_a_plateau_of_its_own(tmp_path, aiida_localhost):
    """The loss of the second stage has other weights; a member that has not reached it is left alone."""
    job = _job(aiida_localhost, tmp_path, max_num_epochs=8, stage_two_share=0.5)
    _write(tmp_path, 'member_00', [1.0, 2.0, 2.0, 2.0])
    _write(tmp_path, 'member_01', [1.0, 2.0, 2.0, 2.0, 9.0, 8.0, 7.0])
    _write(tmp_path, 'member_02', [1.0, 2.0, 2.0, 2.0, 9.0, 9.5, 9.5])
    with aiida_localhost.get_transport() as transport:
        training_plateau(job, transport, patience_epochs=2)
    assert [path.parent.name for path in tmp_path.glob('member_*/STOP')] == ['member_02']


def test_before_the_first_epoch_there_is_nothing_to_do(job, tmp_path, aiida_localhost):
    with aiida_localhost.get_transport() as transport:
        assert training_plateau(job, transport, patience_epochs=1) is None
    assert list(tmp_path.iterdir()) == []


def test_aiida_takes_it_for_a_monitor():
    monitor = CalcJobMonitor(entry_point='mlipal.training_plateau', kwargs={'patience_epochs': 5})
    assert monitor.load_entry_point() is training_plateau
