"""One job at a time on each GPU: real processes with pretended GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from itertools import pairwise
from pathlib import Path

import pytest

from aiida_mlipal.runners import gpu_lock

#: Take the GPUs, write down from when to when, and which.
_JOB = """
import json, os, sys, time
from aiida_mlipal.runners.gpu_lock import hold_gpus
print('asks', flush=True)
waited = hold_gpus()
print('has them', flush=True)
start = time.monotonic()
time.sleep(float(sys.argv[1]))
print(json.dumps({
    'start': start, 'end': time.monotonic(), 'waited': waited, 'gpus': os.environ['CUDA_VISIBLE_DEVICES'].split(','),
}))
"""


@pytest.fixture
def gpus():
    """Return the names of two GPUs that no other test knows; remove their locks in the end."""
    names = [f'pretended-{uuid.uuid4().hex}' for _ in range(2)]
    yield names
    for name in names:
        Path(f'/tmp/aiida-mlipal-gpu-{name}.lock').unlink(missing_ok=True)


def _start(gpus: list[str], wanted: int = 1, seconds: float = 0.6) -> subprocess.Popen:
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ','.join(gpus), gpu_lock.GPUS: str(wanted)}
    return subprocess.Popen(
        [sys.executable, '-c', _JOB, str(seconds)], env=environment, stdout=subprocess.PIPE, text=True
    )


def _until(job: subprocess.Popen, word: str) -> None:
    """Wait until a job says that it asks for its GPUs, or has them."""
    while job.stdout.readline().strip() != word:
        assert job.poll() is None


def _results(*jobs: subprocess.Popen) -> list[dict]:
    results = [json.loads(job.communicate(timeout=60)[0].splitlines()[-1]) for job in jobs]
    assert all(job.returncode == 0 for job in jobs)
    return sorted(results, key=lambda result: result['start'])


def _overlap(first: dict, second: dict) -> bool:
    return second['start'] < first['end']


def test_jobs_of_one_gpu_run_one_after_the_other(gpus):
    results = _results(*(_start(gpus[:1]) for _ in range(3)))
    assert not any(_overlap(first, second) for first, second in pairwise(results))
    assert results[-1]['waited'] > 1.0  # behind two jobs of 0.6 s
    assert all(result['gpus'] == gpus[:1] for result in results)


def test_jobs_of_two_gpus_run_at_the_same_time_on_one_each(gpus):
    first, second = _results(_start(gpus, seconds=5), _start(gpus, seconds=5))
    assert _overlap(first, second)
    assert sorted(first['gpus'] + second['gpus']) == sorted(gpus)


def test_a_job_of_two_gpus_waits_for_both_and_is_not_overtaken(gpus):
    small = _start(gpus, seconds=6)
    _until(small, 'has them')
    large = _start(gpus, wanted=2, seconds=0.2)
    _until(large, 'asks')
    time.sleep(0.5)
    late = _start(gpus, seconds=0.2)
    results = _results(small, large, late)
    assert [len(result['gpus']) for result in results] == [1, 2, 1]
    assert not any(_overlap(first, second) for first, second in pairwise(results))


def test_a_killed_job_leaves_its_gpu(gpus):
    killed = _start(gpus[:1], seconds=60)
    _until(killed, 'has them')
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (result,) = _results(_start(gpus[:1], seconds=0.1))
    assert result['waited'] < 5


def test_job_without_gpus_waits_for_nothing(monkeypatch):
    monkeypatch.delenv(gpu_lock.GPUS, raising=False)
    assert gpu_lock.hold_gpus() == 0


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setenv(gpu_lock.GPUS, '3')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0, 1')
    with pytest.raises(ValueError, match='wants 3 GPUs, and this computer has 2: lower `gpus`'):
        gpu_lock.hold_gpus()


def test_no_gpu_at_all(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    with pytest.raises(ValueError, match=r'no GPU was found .*remove `gpus`'):
        gpu_lock.visible_gpus()
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setenv('PATH', '')
    with pytest.raises(ValueError, match='there is no nvidia-smi'):
        gpu_lock.visible_gpus()


def test_nvidia_smi_is_asked(monkeypatch, tmp_path):
    (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\n[ "$1" = --query-gpu=index ] && echo 0 && echo 1\n')
    (tmp_path / 'nvidia-smi').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert gpu_lock.visible_gpus() == ['0', '1']


def test_members_of_a_job_take_turns(monkeypatch):
    taken = []
    for index in range(3):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,5')
        gpu_lock.share_gpus(index)
        taken.append(os.environ['CUDA_VISIBLE_DEVICES'])
    assert taken == ['2', '5', '2']
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    gpu_lock.share_gpus(1)
    assert 'CUDA_VISIBLE_DEVICES' not in os.environ
