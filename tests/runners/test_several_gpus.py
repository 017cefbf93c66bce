"""One training in several processes, as on several GPUs. MACE trains for real, with the messages between the processes
on the CPU (gloo in place of NCCL, which needs the GPUs)."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.runners import train
from aiida_mlipal.runners.gpu_lock import share_gpus
from aiida_mlipal.runners.torchrun import run_on_gpus
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_log import read_history
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.runners.training import TINY, copper

#: What Python runs first in each process of MACE: the process group that MACE would make for NCCL.
GLOO = """
import os

if 'LOCAL_RANK' in os.environ:
    import torch.distributed
    from torch.nn import parallel

    class OnCpu(parallel.DistributedDataParallel):
        def __init__(self, module, device_ids):
            super().__init__(module)

    parallel.DistributedDataParallel = OnCpu
    torch.distributed.init_process_group('gloo')

    if 'KILL_IN_EPOCH' in os.environ and os.environ['RANK'] == '1':
        import importlib

        loop = importlib.import_module('mace.tools.train')  # an attribute of that name is a function
        step = loop.train_one_epoch

        def die(**arguments):
            if arguments['epoch'] == int(os.environ['KILL_IN_EPOCH']):
                os.kill(os.getpid(), 9)
            step(**arguments)

        loop.train_one_epoch = die
"""


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    """What torchrun changes in a process that ends with it would stay here."""
    monkeypatch.setenv('PYTHONPATH', '')
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _environment(folder: Path) -> list[str]:
    names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')
    found = [os.environ[name] for name in names]
    (folder / found[0]).write_text(f'{os.environ["MASTER_ADDR"]}:{int(os.environ["MASTER_PORT"])}')
    return found


def _fail(folder: Path, how: str) -> None:
    """Fail in the second process; the first waits for it for ever."""
    if os.environ['RANK'] == '0':
        time.sleep(600)
    if how == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    raise FloatingPointError(f'{how} {folder.name}')


def test_what_torchrun_tells_the_processes(tmp_path, compute_python):
    assert run_on_gpus(partial(_environment, tmp_path), 2) == ['0', '0', '2']
    first, second = (path.read_text() for path in sorted(tmp_path.iterdir()))
    assert first == second


def test_what_one_raises_is_raised_and_the_others_are_ended(tmp_path, compute_python):
    start = time.monotonic()
    with pytest.raises(FloatingPointError, match=f'not a number {tmp_path.name}'):
        run_on_gpus(partial(_fail, tmp_path, 'not a number'), 2)
    assert time.monotonic() - start < 300


def test_who_loses_a_process_to_a_signal_dies_of_it(tmp_path, compute_python):
    """So that the committee finds out, as of a member in one process."""
    process = multiprocessing.get_context('fork').Process(
        target=run_on_gpus, args=(partial(_fail, tmp_path, 'killed'), 2)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ('visible', 'place', 'count', 'left'),
    [('0,1,2,3', 0, 2, '0,1'), ('0,1,2,3', 1, 2, '2,3'), ('4,7', 0, 2, '4,7'), ('0,1,2,3', 1, 1, '1')],
)
def test_gpus_of_a_member(monkeypatch, visible, place, count, left):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    share_gpus(place, count)
    assert os.environ['CUDA_VISIBLE_DEVICES'] == left


def test_too_few_gpus_on_the_compute_node(tmp_path, monkeypatch, compute_python):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    copper().save(tmp_path / 'dataset.npz')
    settings = {**TINY, 'seeds': [1], 'device': 'cuda', 'gpus_per_member': 3}
    with pytest.raises(ValueError, match=r'`gpus_per_member` is 3, but the job sees 2 GPU\(s\): ask for more with'):
        train.run(settings, tmp_path)


#: All frames in each step, so that their order does not count; and no scale, for which MACE (0.3.16) takes the root
#: mean square of the forces in the first process's share alone.
FULL = {
    **TINY, 'seeds': [1], 'model': 'MACE', 'dtype': 'float64', 'max_num_epochs': 12,
    'mace_options': {'scaling': 'no_scaling'}, 'ema_decay': 0.9, 'scheduler_patience': 1, 'lr_factor': 0.3,
}  # fmt: skip


def _dataset() -> Configurations:
    return copper(12).with_columns(role=['train'] * 8 + ['validation'] * 4 + ['isolated_atom'])


@pytest.fixture
def trained(tmp_path, monkeypatch, compute_python):
    """Return a function that trains in a folder, on so many GPUs that are none."""
    (tmp_path / 'gloo').mkdir()
    (tmp_path / 'gloo' / 'sitecustomize.py').write_text(GLOO)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'gloo'))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    monkeypatch.setattr(TrainingSettings, '_problems', lambda _: iter(()))  # the CPU is refused

    def run(name: str, **settings) -> dict:
        (tmp_path / name).mkdir(exist_ok=True)
        _dataset().save(tmp_path / name / 'dataset.npz')
        return train.run({**FULL, **settings}, tmp_path / name)['members']['member_00']

    return run


def _history(folder: Path) -> dict[str, list[float]]:
    (path,) = folder.glob('member_00/results/*_train.txt')
    return read_history(path.read_text().splitlines())['Default']


def _weights(folder: Path):
    import torch

    return torch.load(folder / 'member_00.model', weights_only=False).state_dict()


@pytest.mark.long
@pytest.mark.codes
@pytest.mark.timeout(900)
def test_the_model_is_that_of_one_process(trained, tmp_path):
    """Half of the frames of each step in either process: losses and weights are the same but for round-off."""
    (tmp_path / 'one').mkdir()
    _dataset().save(tmp_path / 'one' / 'dataset.npz')
    (tmp_path / 'one' / 'settings.json').write_text(json.dumps({**FULL, 'batch_size': 8}))
    (tmp_path / 'one' / 'runner.zip').write_bytes(build('train'))
    subprocess.run([sys.executable, '-I', 'runner.zip'], cwd=tmp_path / 'one', check=True)
    one = json.loads((tmp_path / 'one' / 'result.json').read_text())['members']['member_00']
    two = trained('two', batch_size=4, gpus_per_member=2)
    assert (one['status'], two['status']) == ('ok', 'ok'), two
    for name, values in _history(tmp_path / 'one').items():
        if name == 'loss':  # of a batch, over its frames: of half of them it is twice as much
            continue
        np.testing.assert_allclose(_history(tmp_path / 'two')[name], values, rtol=1e-6, err_msg=name)
    expected, found = (_weights(tmp_path / name) for name in ('one', 'two'))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-8, err_msg=name)
    assert two['errors']['valid']['force_rmse'] == pytest.approx(one['errors']['valid']['force_rmse'], rel=1e-6)
    assert two['n_parameters'] == one['n_parameters']


@pytest.mark.long
@pytest.mark.codes
@pytest.mark.timeout(900)
def test_a_process_that_is_killed(trained, tmp_path, monkeypatch):
    """It takes the member with it; the next job goes on from the state, to the model of an undisturbed training."""
    settings = {'batch_size': 4, 'gpus_per_member': 2}
    assert trained('undisturbed', **settings)['status'] == 'ok'
    monkeypatch.setenv('KILL_IN_EPOCH', '5')
    killed = trained('killed', **settings)
    assert (killed['status'], killed['kind']) == ('failed', 'out_of_memory'), killed  # SIGKILL is what the kernel sends
    monkeypatch.delenv('KILL_IN_EPOCH')
    again = trained('killed', **settings)
    assert again['status'] == 'ok', again
    assert 1 <= again['continued_from'] <= 5
    expected, found = (_weights(tmp_path / name) for name in ('undisturbed', 'killed'))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.long
@pytest.mark.codes
@pytest.mark.timeout(900)
def test_stopped_and_diverged(trained, tmp_path):
    """What the first process finds out reaches the committee, though the others wait for it."""
    diverged = trained('diverged', batch_size=4, gpus_per_member=2, lr=1e30, max_num_epochs=3)
    assert (diverged['status'], diverged['kind']) == ('failed', 'non_finite'), diverged
    (tmp_path / 'stopped' / 'member_00').mkdir(parents=True)
    # Seen from the second epoch on, when there is a checkpoint.
    (tmp_path / 'stopped' / 'member_00' / 'STOP').symlink_to(tmp_path / 'stopped' / 'checkpoints' / '1' / 'state.pt')
    stopped = trained('stopped', batch_size=4, gpus_per_member=2, max_num_epochs=1000)
    assert (stopped['status'], stopped['stopped']) == ('ok', True), stopped
    history = _history(tmp_path / 'stopped')
    assert history['epoch'][-1] < 100
    assert stopped['best_epoch'] == history['epoch'][history['loss'].index(min(history['loss']))]
