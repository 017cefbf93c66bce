"""Members of a committee side by side: each GPU gets its share of them, and the cores are not oversubscribed."""

from __future__ import annotations

import json
import os
import time

import pytest
from ase.io import read

from aiida_mlipal.runners import train
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_data import bootstrap, head_data
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.runners.training import TINY, copper, start

#: Seconds that each member, by its seed, pretends to train.
SECONDS = {1: 2.0, 2: 0.3, 3: 0.3, 4: 0.3}


@pytest.fixture
def trained(tmp_path, monkeypatch, compute_python):
    """Return a function that trains members in real processes which only write down where and when they ran."""

    def pretend(command_line, **_):
        (seed,) = (int(item.removeprefix('--seed=')) for item in command_line if item.startswith('--seed='))
        begin = time.monotonic()
        time.sleep(SECONDS[seed])
        entry = {'gpu': os.environ.get('CUDA_VISIBLE_DEVICES'), 'start': begin, 'end': time.monotonic()}
        (tmp_path / f'seed_{seed}.json').write_text(json.dumps(entry))
        raise RuntimeError('nothing was trained')

    def run(**settings) -> list[dict]:
        copper().save(tmp_path / 'dataset.npz')
        result = train.run({**TINY, 'seeds': list(SECONDS), **settings}, tmp_path)
        assert {member['reason'] for member in result['members'].values()} == {'RuntimeError: nothing was trained'}
        return [json.loads((tmp_path / f'seed_{seed}.json').read_text()) for seed in SECONDS]

    monkeypatch.setattr(train.mace_cli, 'run', pretend)
    return run


def _most_at_a_time(entries: list[dict]) -> int:
    return max(sum(other['start'] <= entry['start'] < other['end'] for other in entries) for entry in entries)


def test_members_are_spread_over_the_gpus_as_places_become_free(trained, monkeypatch):
    """While the first is at work on its GPU, the others follow each other on the second."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,5')
    entries = trained(device='cuda', max_parallel=2)
    assert [entry['gpu'] for entry in entries] == ['2', '5', '5', '5']
    assert _most_at_a_time(entries) == 2


def test_several_members_share_each_gpu(trained, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,5')
    entries = trained(device='cuda', max_parallel=4)
    assert [entry['gpu'] for entry in entries] == ['2', '5', '2', '5']
    assert _most_at_a_time(entries) == 4


@pytest.mark.parametrize(('cores', 'threads', 'parallel'), [(2, 1, 2), (1, 1, 1), (3, 2, 1)])
def test_the_cores_are_not_oversubscribed(trained, monkeypatch, cores, threads, parallel):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)))
    entries = trained(max_parallel=4, threads=threads)
    assert _most_at_a_time(entries) == parallel


@pytest.mark.codes
def test_members_that_learn_from_resamples(tmp_path, compute_python):
    """What MACE reads is the resample of each member's own seed, and the validation frames of all."""
    folder = tmp_path / 'training'
    process = start(folder, seeds=[1, 2], bootstrap=True)
    assert process.wait(400) == 0, (folder / 'runner.log').read_text()
    result = json.loads((folder / 'result.json').read_text())
    settings = TrainingSettings(seeds=(1, 2), valid_fraction=TINY['valid_fraction'])
    data = head_data(Configurations.load(folder / 'dataset.npz'), {}, settings)['Default']
    energies = {seed: bootstrap(data.train, seed).energy.tolist() for seed in (1, 2)}
    assert energies[1] != energies[2]
    for name, seed in (('member_00', 1), ('member_01', 2)):
        assert result['members'][name]['status'] == 'ok', result['members'][name]
        found = read(folder / name / 'train.xyz', ':')
        assert [atoms.info['REF_energy'] for atoms in found] == pytest.approx(energies[seed], abs=1e-12)
        valid = read(folder / name / 'valid.xyz', ':')
        assert [atoms.info['REF_energy'] for atoms in valid] == pytest.approx(data.valid.energy.tolist(), abs=1e-12)
    assert sorted(result['valid_frame_ids']) == sorted(data.valid.frame_id)
