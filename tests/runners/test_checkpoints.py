"""A training that is killed goes on as if it had not been; and MACE's own restart, which does not."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch

from aiida_mlipal.runners import checkpoints
from aiida_mlipal.runners.checkpoints import STATE, best_checkpoint
from aiida_mlipal.runners.mace_cli import arguments
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_log import read_history
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.runners.test_stage_two import _files
from tests.runners.training import TINY, start

#: The learning rate, the average of the weights, and the second stage all remember earlier epochs.
SETTINGS = {
    'seeds': [3], 'max_num_epochs': 8, 'ema_decay': 0.9, 'stage_two_share': 0.3, 'scheduler': 'ExponentialLR',
    'lr_scheduler_gamma': 0.7,
}  # fmt: skip
SEED = 20261121


def _kill(process):
    """Kill a job as a node that fails: all of it, at once."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for item in family:
        item.kill()
    process.wait(60)


def _history(folder):
    (path,) = folder.glob('member_00/results/*_train.txt')
    return read_history(path.read_text().splitlines()).get('Default', {'epoch': []})


def _member(folder):
    member = json.loads((folder / 'result.json').read_text())['members']['member_00']
    assert member['status'] == 'ok', member
    return member


def _weights(folder):
    return torch.load(folder / 'member_00.model', weights_only=False).state_dict()


@pytest.fixture(scope='module')
def folders(tmp_path_factory, compute_python):
    """Return the folders of a training that nobody disturbs, of one that is killed, and of one that goes on with it."""
    root = tmp_path_factory.mktemp('checkpoints')
    whole, killed = (start(root / name, **SETTINGS) for name in ('whole', 'killed'))
    epoch = random.Random(SEED).randrange(1, 7)
    deadline = time.monotonic() + 400
    while not (list((root / 'killed').glob('member_00/results/*')) and epoch in _history(root / 'killed')['epoch']):
        assert time.monotonic() < deadline, (root / 'killed' / 'runner.log').read_text()
        time.sleep(0.02)
    _kill(killed)
    (root / 'next').mkdir()
    shutil.copytree(root / 'killed' / 'checkpoints', root / 'next' / 'checkpoints')
    for process in (start(root / 'next', **SETTINGS), whole):
        assert process.wait(400) == 0
    return root


@pytest.mark.codes
def test_a_killed_training_goes_on_as_if_it_had_not_been(folders):
    """To the last bit: losses, errors, and weights."""
    whole, following = folders / 'whole', folders / 'next'
    assert not (folders / 'killed' / 'result.json').exists()
    first = _member(following)['continued_from']
    assert first >= 1
    assert 'continued_from' not in _member(whole)
    undisturbed, rest = _history(whole), _history(following)
    assert rest['epoch'] == list(range(first, 8))
    for quantity in ('loss', 'force_rmse', 'energy_rmse_per_atom'):
        assert rest[quantity] == undisturbed[quantity][first:]
    assert _member(following)['errors'] == _member(whole)['errors']
    ours, theirs = _weights(following), _weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.codes
def test_one_that_has_ended_is_not_trained_again(folders):
    """A job that is killed while another member trains loses nothing of this one."""
    state = torch.load(folders / 'whole' / 'checkpoints' / '3' / STATE, weights_only=True)
    assert state['epoch'] == 8


@pytest.mark.codes
@pytest.mark.long
def test_the_restart_of_mace_itself(folders, tmp_path):
    """It trains the epoch of the checkpoint again. If this fails, MACE has mended it: see ``runners.checkpoints``."""
    whole = folders / 'whole'
    best = best_checkpoint(whole / 'checkpoints' / '3')
    shutil.copytree(whole / 'checkpoints', tmp_path / 'checkpoints')
    (tmp_path / 'member_00').mkdir()
    settings = from_dict(TrainingSettings, {**TINY, **SETTINGS})
    line = arguments(settings, name='seed_3', seed=3, heads={'Default': _files(whole)})
    subprocess.run(
        [sys.executable, '-m', 'mace.cli.run_train', *line, '--restart_latest', '--max_num_epochs=9'],
        cwd=tmp_path / 'member_00', env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, check=True,
    )  # fmt: skip
    assert _history(tmp_path)['epoch'][0] == best


@pytest.mark.codes
def test_mace_deletes_a_checkpoint_before_it_has_written_the_next(tmp_path, monkeypatch, compute_python):
    """The fault for which our own writing replaces MACE's; if this fails, MACE has mended it."""
    from mace.tools.checkpoint import CheckpointIO

    io = CheckpointIO(str(tmp_path), tag='x')
    io.save({}, 0)

    def killed(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
        io.save({}, 1)
    assert best_checkpoint(tmp_path) is None


def test_a_kill_while_writing_leaves_the_last_state(tmp_path, monkeypatch):
    checkpoints._write({'epoch': 1}, tmp_path / STATE)

    def half(content, path):
        path.write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(KeyboardInterrupt):
        checkpoints._write({'epoch': 2}, tmp_path / STATE)
    assert checkpoints._read(tmp_path / STATE) == {'epoch': 1}


def test_best_checkpoint(tmp_path):
    assert best_checkpoint(tmp_path) is None
    for name in ('seed_7_run-7_epoch-9.pt', 'seed_7_run-7_epoch-10.pt', 'seed_7_run-7.model', STATE):
        (tmp_path / name).touch()
    assert best_checkpoint(tmp_path) == 10
    (tmp_path / 'seed_7_run-7_epoch-12_swa.pt').touch()
    assert best_checkpoint(tmp_path) == 12
