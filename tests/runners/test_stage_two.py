"""A training of two stages, whatever its end: the model is that of the last checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from aiida_mlipal.runners.checkpoints import best_checkpoint
from aiida_mlipal.runners.mace_cli import arguments, checkpoint_folder, model_file
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.runners.test_mace_cli import _head
from tests.runners.training import TINY, start

pytestmark = pytest.mark.codes

SETTINGS = {'seeds': [1], 'max_num_epochs': 3, 'stage_two_share': 0.3, 'ema_decay': 0.5}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, compute_python):
    """Return the folder of a training whose last epoch is its second stage."""
    folder = tmp_path_factory.mktemp('stage_two')
    process = start(folder, **SETTINGS)
    assert process.wait(400) == 0, (folder / 'runner.log').read_text()
    return folder


def _checkpoint(folder, epoch):
    (path,) = folder.glob(f'checkpoints/1/*_epoch-{epoch}*.pt')
    return torch.load(path, weights_only=False)['model']


def _holds(model, weights):
    state = torch.load(model, weights_only=False).state_dict()
    return all(torch.equal(state[key], value) for key, value in weights.items())


def test_the_model_is_the_best_of_the_second_stage(folder):
    member = json.loads((folder / 'result.json').read_text())['members']['member_00']
    assert (member['status'], member['best_epoch']) == ('ok', 2)
    assert _holds(folder / 'member_00.model', _checkpoint(folder, 2))


@pytest.mark.parametrize('stage', [2, 1])
def test_a_training_that_was_ended_is_written_as_it_was(folder, stage):
    """What the job does after a STOP, at the first epoch of the second stage and before it."""
    member = folder / 'member_00'
    if stage == 1:
        for path in checkpoint_folder(member, 1).glob('*_swa.pt'):
            path.unlink()
    for path in member.glob('*.model'):
        path.unlink()
    epoch = best_checkpoint(checkpoint_folder(member, 1))
    line = arguments(
        from_dict(TrainingSettings, {**TINY, **SETTINGS}),
        name='seed_1', seed=1, heads={'Default': _files(folder)}, restart_epoch=epoch,
    )  # fmt: skip
    subprocess.run(
        [sys.executable, '-m', 'mace.cli.run_train', *line], cwd=member, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True, check=True,
    )  # fmt: skip
    assert (epoch == 2) == (stage == 2)
    assert _holds(model_file(member, 'seed_1'), _checkpoint(folder, epoch))


def _files(folder):
    import dataclasses

    result = json.loads((folder / 'result.json').read_text())
    files = {f'{kind}_file': folder / f'{kind}.xyz' for kind in ('train', 'valid')}
    return dataclasses.replace(_head(n_train=result['n_train'], e0s={29: result['e0s']['Cu']}), **files)


def test_refused_options_stop_the_job_before_anything_is_trained(tmp_path, compute_python):
    process = start(tmp_path / 'job', seeds=[1, 2], mace_options={'gaet': 'tanh'})
    assert process.wait(400) == 1
    result = json.loads((tmp_path / 'job' / 'result.json').read_text())
    assert (result['status'], result['kind']) == ('error', 'settings_refused')
    assert 'Did you mean `gate`?' in result['error']
    assert not (tmp_path / 'job' / 'member_00').exists()
