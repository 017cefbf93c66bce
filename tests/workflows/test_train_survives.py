"""Trainings that are killed, run out of memory, or diverge: the WorkChain goes on from the checkpoints."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from aiida import orm
from aiida.engine import CalcJob, run_get_node
from aiida.schedulers.plugins.direct import DirectScheduler
from ase.build import bulk
from ase.calculators.emt import EMT as EMTCalculator

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.train import TrainWorkChain
from tests.runners.training import TINY, copper

EMT = {'code': 'ase', 'calculator': 'emt'}
SEED = 20261121

#: Runs the job and does to it what the plan says, once it has come further: `node` kills all of it, as a node that
#: fails; `time` does, too, and says so as a scheduler does; `memory` kills the first member, as the kernel does when
#: memory has run out; a number kills all of it after the epoch of that number.
HARASSED = r"""#!{python}
import subprocess, sys, time
start = time.time()
from pathlib import Path
import psutil
counter = Path('{counter}')
turn = len(counter.read_text()) if counter.exists() else 0
counter.write_text('x' * (turn + 1))
plan = {plan}[turn]
job = subprocess.Popen([sys.executable, *sys.argv[1:]])
def come_far():
    if isinstance(plan, int):
        logs = Path('.').glob('member_00/results/*_train.txt')
        return any(f'"mode": "eval", "epoch": {{plan}},' in log.read_text() for log in logs)
    return any(state.stat().st_mtime > start for state in Path('.').glob('checkpoints/1/state.pt'))
while plan and job.poll() is None:
    if come_far():
        members = sorted(psutil.Process(job.pid).children(), key=lambda item: item.pid)
        for item in members[:1] if plan == 'memory' else [job, *members]:
            item.kill()
        if plan == 'time':
            with open('_scheduler-stderr.txt', 'a') as stderr:
                print('slurmstepd: error: *** JOB 1 CANCELLED DUE TO TIME LIMIT ***', file=stderr)
        plan = None
    time.sleep(0.02)
sys.exit(job.wait())
"""
#: Leaves at once what a job leaves that has failed in a certain way.
FAILING = """#!/bin/sh
{command}
"""


@pytest.fixture
def script(aiida_localhost, tmp_path):
    """Return a function that makes a code of a script."""

    def make(text: str) -> orm.InstalledCode:
        path = tmp_path / 'python.sh'
        path.write_text(text)
        path.chmod(0o755)
        code = orm.InstalledCode(
            label='harassed', computer=aiida_localhost, filepath_executable=str(path), with_mpi=False
        )
        return code.store()

    return make


def _builder(code, **settings):
    builder = TrainWorkChain.get_builder()
    builder.dataset = ConfigurationsData(copper(), level_of_theory=EMT)
    builder.settings = orm.Dict({**TINY, 'seeds': [1], **settings})
    builder.mace.code = code
    return builder


def _jobs(node):
    return [process for process in node.called if isinstance(process, orm.CalcJobNode)]


def _report(node):
    return ' '.join(log.message for log in orm.Log.collection.get_logs_for(node))


def _harassed(script, tmp_path, *plan):
    return script(HARASSED.format(python=sys.executable, counter=tmp_path / 'turns', plan=[*plan, None]))


@pytest.mark.codes
def test_a_failed_node_and_then_too_little_memory(script, tmp_path):
    code = _harassed(script, tmp_path, 'node', 'memory')
    outputs, node = run_get_node(_builder(code, seeds=[1, 2], max_num_epochs=6))
    assert node.is_finished_ok, (node.exit_message, _report(node))
    assert [job.exit_status for job in _jobs(node)] == [300, 410, 0]
    first, second, third = _jobs(node)
    for before, after in ((first, second), (second, third)):
        assert after.inputs.previous.uuid == before.outputs.remote_folder.uuid
    assert (second.inputs.settings['seeds'], second.inputs.settings['batch_size']) == ([1, 2], 3)
    assert (third.inputs.settings['seeds'], third.inputs.settings['batch_size']) == ([1], 1)
    members = [job.outputs.results['members'] for job in (second, third)]
    assert members[0]['member_00']['kind'] == 'out_of_memory'
    assert members[1]['member_00']['continued_from'] >= 2
    assert members[0]['member_01']['status'] == 'ok'
    assert outputs['model'].seeds == [1, 2]
    assert 'the job was interrupted; going on from the checkpoints' in _report(node)
    assert 'memory ran out with `batch_size` 3' in _report(node)
    assert trace(outputs['model']).gaps == []
    assert sorted(outputs['history']) == ['attempt_0', 'attempt_1', 'attempt_2']


@pytest.mark.codes
def test_a_training_that_diverges(python_code):
    """The learning rate grows a thousandfold per epoch."""
    settings = {'max_num_epochs': 3, 'scheduler': 'ExponentialLR', 'lr_scheduler_gamma': 1000.0}
    outputs, node = run_get_node(_builder(python_code, **settings))
    assert node.is_finished_ok, (node.exit_message, _report(node))
    first, second = _jobs(node)
    assert first.outputs.results['members']['member_00']['kind'] == 'non_finite'
    assert second.inputs.settings['lr'] == pytest.approx(0.001)
    member = second.outputs.results['members']['member_00']
    assert (member['continued_from'], member['best_epoch']) == (1, 1)
    losses = [outputs['history'][f'attempt_{index}'].get_array('member_00_loss') for index in (0, 1)]
    assert losses[1].min() < np.nanmin(losses[0])
    assert 'going on from the best checkpoints with 0.001' in _report(node)
    assert trace(outputs['model']).gaps == []


@pytest.mark.codes
@pytest.mark.long
def test_a_wall_time_that_is_over_three_times(script, tmp_path, python_code, monkeypatch):
    """The scheduler says so each time; the model is that of a training which nobody disturbed, to the last bit."""

    def parse_output(_, detailed_job_info, stdout, stderr):
        return CalcJob.exit_codes.ERROR_SCHEDULER_OUT_OF_WALLTIME if 'DUE TO TIME LIMIT' in stderr else None

    monkeypatch.setattr(DirectScheduler, 'parse_output', parse_output)
    code = _harassed(script, tmp_path, 'time', 'time', 'time')
    outputs, node = run_get_node(_builder(code, max_num_epochs=10))
    assert node.is_finished_ok, (node.exit_message, _report(node))
    assert [job.exit_status for job in _jobs(node)] == [120, 120, 120, 0]
    assert _report(node).count('the job was interrupted; going on from the checkpoints') == 3
    whole, _ = run_get_node(_builder(python_code, max_num_epochs=10))
    errors = [item['model'].base.attributes.get('errors')['member_00'] for item in (outputs, whole)]
    assert errors[0] == errors[1]


@pytest.mark.codes
@pytest.mark.long
def test_killed_at_random_epochs_no_checkpoint_is_lost(script, tmp_path):
    epochs = sorted(random.Random(SEED).sample(range(1, 10), 2))
    outputs, node = run_get_node(_builder(_harassed(script, tmp_path, *epochs), max_num_epochs=12))
    assert node.is_finished_ok, (node.exit_message, _report(node))
    jobs = _jobs(node)
    assert [job.exit_status for job in jobs] == [300, 300, 0]
    seen, losses = set(), {}
    for index, job in enumerate(jobs):
        history = outputs['history'][f'attempt_{index}']
        trained = history.get_array('member_00_epoch').astype(int).tolist()
        assert trained[0] <= len(seen)  # no epoch is left out
        seen |= set(trained)
        losses |= dict(zip(trained, history.get_array('member_00_loss').tolist(), strict=True))
        folder = Path(job.outputs.remote_folder.get_remote_path()) / 'checkpoints' / '1'
        kept = [torch.load(path, weights_only=True) for path in folder.glob('*_epoch-*.pt')]
        # A kill between the record of an epoch and its checkpoint leaves the one before.
        allowed = {min(losses.values()), min(loss for epoch, loss in losses.items() if epoch < max(losses))}
        assert min(item['loss'] for item in kept) in allowed
        assert torch.load(folder / 'state.pt', weights_only=True)['epoch'] <= max(trained) + 1
    assert seen == set(range(12))
    member = jobs[-1].outputs.results['members']['member_00']
    assert losses[member['best_epoch']] == min(losses.values())


@pytest.mark.codes
def test_a_plateau_ends_the_training_early(python_code):
    """The monitor asks the job to end; the model is that of the best epoch, and the job is not repeated."""
    builder = _builder(python_code, max_num_epochs=3000, lr=0.05, ema_decay=0)
    monitor = {'entry_point': 'mlipal.training_plateau', 'kwargs': {'patience_epochs': 3}, 'minimum_poll_interval': 1}
    builder.mace.monitors = {'plateau': orm.Dict(monitor)}
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, (node.exit_message, _report(node))
    (job,) = _jobs(node)
    member = job.outputs.results['members']['member_00']
    history = outputs['history']['attempt_0']
    losses = history.get_array('member_00_loss')
    assert member['stopped']
    assert len(losses) < 3000
    assert member['best_epoch'] == int(np.argmin(losses)) <= len(losses) - 1 - 3
    force_rmse = history.get_array('member_00_force_rmse')[member['best_epoch']]
    assert member['errors']['valid']['force_rmse'] == pytest.approx(force_rmse, rel=1e-3)
    assert f'its model is that of epoch {member["best_epoch"]}' in _report(node)
    assert trace(outputs['model']).gaps == []


def _address_space():
    """Return KiB: what Python, PyTorch and MACE take by themselves."""
    program = 'import mace.cli.run_train; print(open("/proc/self/status").read().split("VmPeak:")[1].split()[0])'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.codes
@pytest.mark.long
def test_an_address_space_that_is_full(python_code, compute_python):
    """PyTorch itself finds no memory for a batch of 32 frames of 32 atoms, which takes 1.6 GiB; smaller ones fit."""
    frames = [bulk('Cu', cubic=True) * (2, 2, 2) for _ in range(36)]
    for index, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=index)
    for atoms in frames:
        atoms.calc = EMTCalculator()
        atoms.get_stress()
        atoms.get_forces()
    builder = _builder(
        python_code, max_num_epochs=1, r_max=6.0, num_channels=64, max_ell=2, num_interactions=1, correlation=1,
        valid_fraction=0.1, batch_size=32, valid_batch_size=1, e0s={'Cu': 3.51},
    )  # fmt: skip
    builder.dataset = ConfigurationsData(Configurations.from_atoms(frames, labels=True), level_of_theory=EMT)
    builder.mace.metadata.options.prepend_text = f'ulimit -v {_address_space() + 1200 * 1024}'
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, (node.exit_message, _report(node))
    *failed, last = _jobs(node)
    for job in failed:
        member = job.outputs.results['members']['member_00']
        assert (job.exit_status, member['kind']) == (311, 'out_of_memory')
        assert "can't allocate memory" in member['reason']
    sizes = [job.inputs.settings['batch_size'] for job in (*failed, last)]
    assert sizes[:2] == [32, 16]
    assert sizes[-1] == 32 >> len(failed)
    assert last.outputs.results['members']['member_00']['status'] == 'ok'
    assert 'memory ran out with `batch_size` 32' in _report(node)
    assert trace(outputs['model']).gaps == []


def _result(kind):
    return f"""echo '{{"status": "error", "error": "it failed", "kind": "{kind}", "traceback": ""}}' > result.json"""


@pytest.mark.parametrize(
    ('command', 'jobs', 'exit_status', 'message'),
    [
        ('exit 1', [300, 300], 422, 'ask for a wall time in which MACE can start'),
        (_result('out_of_memory'), [311, 311], 420, 'Not even a batch of one frame fits'),
        (_result('non_finite'), [312] * 4, 421, r'learning rate of 1e-05.*largest force in the dataset: \d'),
        (_result('exception'), [310, 310], 410, 'Only 0 of 1 committee members .* it failed'),
    ],
)
def test_the_exit_code_says_what_to_do(script, command, jobs, exit_status, message):
    """Jobs that fail in one and the same way for ever."""
    code = script(FAILING.format(command=command))
    _, node = run_get_node(_builder(code))
    assert [job.exit_status for job in _jobs(node)] == jobs
    assert node.exit_status == exit_status
    assert re.search(message, node.exit_message)
    for job in _jobs(node):
        assert f'MaceTrainCalculation<{job.pk}> failed: {job.exit_message}' in _report(node)
