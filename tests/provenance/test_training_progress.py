"""How far running trainings are: read from a job that runs, over one connection per computer."""

from __future__ import annotations

import json
import time

import pytest
from aiida.common.datastructures import CalcJobState
from aiida.common.links import LinkType
from aiida.engine import ProcessState
from aiida.orm import CalcJobNode, Computer, Dict, QueryBuilder, WorkChainNode
from aiida.orm import Node as AnyNode
from aiida.schedulers.datastructures import JobState
from aiida.transports.plugins.local import LocalTransport

from aiida_mlipal.cli.display import training_lines
from aiida_mlipal.provenance.training_progress import TrainingReader, parse_progress
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.runners.training import TINY, start

SETTINGS = {'seeds': [1, 2, 3], 'max_num_epochs': 10}


def _job(computer, folder, caller=None, state=CalcJobState.WITHSCHEDULER, scheduler=JobState.RUNNING, **settings):
    node = CalcJobNode(computer=computer, process_type='aiida.calculations:mlipal.mace.train')
    node.base.links.add_incoming(Dict({**SETTINGS, **settings}).store(), LinkType.INPUT_CALC, 'settings')
    if caller is not None:
        node.base.links.add_incoming(caller, LinkType.CALL_CALC, f'iteration_{time.monotonic_ns()}')
    node.set_process_label('MaceTrainCalculation')
    node.set_process_state(ProcessState.WAITING)
    node.set_state(state)
    if scheduler is not None:
        node.set_scheduler_state(scheduler)
    if folder is not None:
        node.set_remote_workdir(str(folder))
    return node.store()


def _member(folder, name, losses, seconds=60.0):
    """Write what MACE writes: an epoch took ``seconds``."""
    (folder / name / 'results').mkdir(parents=True)
    records = [{'loss': 0.5, 'time': 0.1, 'mode': 'opt', 'epoch': 0}]
    ends = []
    for epoch, loss in enumerate(losses):
        record = {'loss': loss, 'rmse_f': loss / 10, 'mode': 'eval', 'epoch': epoch, 'head': 'Default'}
        records.append(record)
        stamp = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(time.time() - seconds * (len(losses) - 1 - epoch)))
        ends.append(f'{stamp}.000 INFO: Epoch {epoch}: head: Default, loss={loss:.8f}\n')
    (folder / name / 'results' / f'seed_{name}_train.txt').write_text('\n'.join(map(json.dumps, records)) + '\n')
    (folder / name / 'train.log').write_text('2026-01-01 00:00:00.000 INFO: MACE\n' + ''.join(ends))


class Counting(LocalTransport):
    """The local transport in place of a remote one; it counts connections, may be slow to answer, or broken."""

    opened: list[str] = []  #: over all instances
    pause = 0.0
    safe_interval = 0.0
    broken = False

    def open(self):
        """Count."""
        self.opened.append('open')
        time.sleep(self.pause)
        if self.broken:
            raise OSError('connection refused')
        return super().open()

    def get_safe_open_interval(self):
        """Return what the test asks for."""
        return self.safe_interval


@pytest.fixture
def transport(monkeypatch):
    """Give all jobs a transport that can be watched."""
    for name, value in (('opened', []), ('pause', 0.0), ('safe_interval', 0.0), ('broken', False)):
        monkeypatch.setattr(Counting, name, value)
    monkeypatch.setattr(CalcJobNode, 'get_transport', lambda _: Counting())
    return Counting


def test_members_of_a_job(aiida_localhost, tmp_path, transport):
    _member(tmp_path, 'member_00', [3.0, 1.0, 2.0, 2.5])
    _member(tmp_path, 'member_01', [3.0] * 10)
    (tmp_path / 'member_01' / 'member.json').write_text('{\n "status": "ok"\n}')
    (tmp_path / 'member_02').mkdir()
    (job,) = TrainingReader().read([_job(aiida_localhost, tmp_path).pk])
    assert (job.state, job.attempt, job.computer) == ('', 1, 'localhost')
    first, second, third = job.members
    assert (first.state, first.epoch, first.max_epochs) == ('training', 4, 10)
    assert (first.loss, first.best_loss, first.force_rmse) == (2.5, 1.0, 0.25)
    assert first.left_s == pytest.approx(6 * 60, abs=5)
    assert (second.state, second.epoch, second.left_s) == ('done', 10, None)
    assert third.state == 'waiting'
    lines = training_lines(job)
    assert lines[0] == f'training   job {job.pk} on `localhost`'
    assert lines[1].startswith('member_00  [')
    assert '4/10 epochs, loss 2.5 (best 1), force RMSE 250.0 meV/Å, about ' in lines[1]
    assert lines[2].endswith(', done')
    assert lines[3] == 'member_02  waiting for its turn'


def test_one_connection_per_computer_and_nothing_is_stored(aiida_localhost, tmp_path, transport):
    pks = []
    for name in ('a', 'b', 'c'):
        _member(tmp_path / name, 'member_00', [1.0])
        pks.append(_job(aiida_localhost, tmp_path / name).pk)
    before = QueryBuilder().append(AnyNode).count()
    jobs = TrainingReader().read(pks)
    assert [len(job.members) for job in jobs] == [1, 1, 1]
    assert transport.opened == ['open']
    assert QueryBuilder().append(AnyNode).count() == before


def test_a_second_look_waits_for_the_safe_interval(aiida_localhost, tmp_path, transport, monkeypatch):
    _member(tmp_path, 'member_00', [1.0])
    pk = _job(aiida_localhost, tmp_path).pk
    monkeypatch.setattr(Counting, 'safe_interval', 100.0)
    reader = TrainingReader()
    assert reader.read([pk]) == reader.read([pk])
    assert transport.opened == ['open']


@pytest.mark.parametrize(
    ('attribute', 'value', 'message'),
    [('pause', 3.0, 'no answer within 0.5 s'), ('broken', True, 'OSError: connection refused')],
)
def test_a_computer_that_does_not_answer(aiida_localhost, tmp_path, transport, monkeypatch, attribute, value, message):
    _member(tmp_path, 'member_00', [1.0])
    pk = _job(aiida_localhost, tmp_path).pk
    monkeypatch.setattr(Counting, attribute, value)
    begin = time.monotonic()
    (job,) = TrainingReader(timeout=0.5).read([pk])
    assert time.monotonic() - begin < 2
    assert job.members == ()
    assert f'the computer `localhost` does not answer ({message}): try `verdi computer test localhost`' in job.state
    assert len(training_lines(job)) == 1


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'state': CalcJobState.UPLOADING, 'scheduler': None}, 'its files are on their way to the computer'),
        ({'scheduler': JobState.QUEUED}, 'waiting in the queue'),
        ({'scheduler': JobState.QUEUED_HELD}, 'waiting in the queue'),
        ({}, 'starting'),
        ({'state': CalcJobState.RETRIEVING}, 'has ended, its files are on their way back'),
    ],
)
def test_before_and_after(aiida_localhost, tmp_path, transport, given, words):
    """The folder is there, or not yet; there is nothing in it."""
    folder = tmp_path if given.get('scheduler') != JobState.QUEUED else tmp_path / 'nowhere'
    (job,) = TrainingReader().read([_job(aiida_localhost, folder, **given).pk])
    assert (job.state, job.members) == (words, ())


def test_which_attempt_and_why(aiida_localhost, tmp_path, transport):
    caller = WorkChainNode().store()
    first = _job(aiida_localhost, None, caller, state=CalcJobState.PARSING)
    first.set_process_state(ProcessState.FINISHED)
    first.set_exit_status(300)
    first.set_exit_message('the runner left no `result.json`')
    (job,) = TrainingReader().read([_job(aiida_localhost, tmp_path, caller).pk])
    assert (job.attempt, job.restarted) == (2, '300 the runner left no `result.json`')
    assert 'attempt 2 (the one before: 300 the runner left no `result.json`)' in training_lines(job)[0]


def test_the_best_loss_is_that_of_the_stage():
    settings = from_dict(TrainingSettings, {**SETTINGS, 'stage_two_share': 0.5})
    losses = [1.0, 0.5, 0.5, 0.5, 0.5, 9.0, 8.0, 8.5]
    records = [{'mode': 'eval', 'epoch': epoch, 'loss': loss} for epoch, loss in enumerate(losses)]
    text = 'Welcome!\nmember member_00\nstarted\n' + '\n'.join(json.dumps(record) for record in records)
    (member,) = parse_progress(text, settings)
    assert (member.loss, member.best_loss, member.left_s) == (8.5, 8.0, None)
    (member,) = parse_progress(text.rpartition('\n')[0].rpartition('\n')[0].rpartition('\n')[0], settings)
    assert member.best_loss == 0.5


def test_a_member_that_has_only_begun():
    (member,) = parse_progress('member member_00\nstarted\n', from_dict(TrainingSettings, SETTINGS))
    assert (member.state, member.epoch, member.loss) == ('starting', 0, None)


@pytest.mark.codes
def test_a_training_that_runs(aiida_localhost, tmp_path, compute_python):
    """Read while MACE writes: epochs go up, and the time left comes true."""
    process = start(tmp_path / 'job', seeds=[1, 2], max_num_epochs=2000, max_parallel=1)
    try:
        pk = _job(aiida_localhost, tmp_path / 'job', **{**TINY, 'seeds': [1, 2], 'max_num_epochs': 2000}).pk
        reader, seen = TrainingReader(), []
        deadline = time.monotonic() + 200
        while len(seen) < 2 and time.monotonic() < deadline:
            (job,) = reader.read([pk])
            if job.members and job.members[0].left_s is not None and job.members[0].epoch >= 5 * (len(seen) + 1):
                seen.append((time.monotonic(), job.members[0]))
            time.sleep(0.3)
        assert len(seen) == 2, (tmp_path / 'job' / 'runner.log').read_text()
        (before, first), (after, second) = seen
        assert second.epoch > first.epoch
        assert second.best_loss <= first.best_loss
        pace = (after - before) / (second.epoch - first.epoch)
        assert second.left_s == pytest.approx(pace * (2000 - second.epoch), rel=0.6)
        (tmp_path / 'job' / 'STOP').touch()
        assert process.wait(200) == 0
        (job,) = reader.read([pk])
        assert job.members[0].state == 'done'
    finally:
        process.kill()


def test_the_computer_is_really_asked_over_its_own_transport(aiida_localhost, tmp_path):
    """Without anything replaced."""
    assert isinstance(aiida_localhost, Computer)
    _member(tmp_path, 'member_00', [1.0, 0.5])
    (job,) = TrainingReader().read([_job(aiida_localhost, tmp_path).pk])
    assert job.members[0].best_loss == 0.5
