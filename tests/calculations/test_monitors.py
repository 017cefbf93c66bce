"""Monitors of running jobs."""

from __future__ import annotations

import json

import pytest
from aiida.engine.processes.calcjobs.monitors import CalcJobMonitor
from aiida.orm import CalcJobNode

from aiida_mlipal.calculations.monitors import training_plateau


@pytest.fixture
def job(aiida_localhost, tmp_path):
    node = CalcJobNode(computer=aiida_localhost, process_type='aiida.calculations:mlipal.mace.train')
    node.set_remote_workdir(str(tmp_path))
    return node


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


def test_before_the_first_epoch_there_is_nothing_to_do(job, tmp_path, aiida_localhost):
    with aiida_localhost.get_transport() as transport:
        assert training_plateau(job, transport, patience_epochs=1) is None
    assert list(tmp_path.iterdir()) == []


def test_aiida_takes_it_for_a_monitor():
    monitor = CalcJobMonitor(entry_point='mlipal.training_plateau', kwargs={'patience_epochs': 5})
    assert monitor.load_entry_point() is training_plateau
