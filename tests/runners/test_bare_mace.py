"""A training by this package and a bare ``mace_run_train`` with the same options and seed are one and the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from ase.io import write

from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import head_data
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.runners.training import copper, start

pytestmark = pytest.mark.codes

#: All that has a setting of its own, none at its default, and two raw options.
SETTINGS = {
    'seeds': [3], 'valid_fraction': 0.25, 'model': 'MACE', 'r_max': 4.2, 'num_channels': 4, 'max_L': 1, 'max_ell': 1,
    'num_interactions': 1, 'correlation': 3, 'num_radial_basis': 6, 'num_cutoff_basis': 4, 'radial_MLP': [8, 8],
    'distance_transform': 'Agnesi', 'pair_repulsion': True, 'max_num_epochs': 6, 'batch_size': 3, 'valid_batch_size': 2,
    'dtype': 'float64', 'optimizer': 'adamw', 'lr': 0.02, 'weight_decay': 1e-4, 'clip_grad': 5.0, 'lr_factor': 0.7,
    'scheduler_patience': 1, 'ema_decay': 0.9, 'loss': 'universal', 'energy_weight': 2.0, 'forces_weight': 20.0,
    'stress_weight': 3.0, 'huber_delta': 0.02, 'stage_two_share': 0.4, 'stage_two_lr': 0.003,
    'stage_two_energy_weight': 50.0, 'stage_two_forces_weight': 5.0, 'stage_two_stress_weight': 7.0,
    'mace_options': {'gate': 'tanh', 'use_so3': False, 'amsgrad': True},
}  # fmt: skip
#: What somebody who knows MACE and not this package would type for them.
BARE = """
--name=member_00 --seed=3 --train_file=train.xyz --valid_file=valid.xyz --E0s={29:%r} --device=cpu
--energy_key=REF_energy --forces_key=REF_forces --stress_key=REF_stress
--default_dtype=float64 --model=MACE --r_max=4.2 --num_channels=4 --max_L=1 --max_ell=1 --num_interactions=1
--correlation=3 --num_radial_basis=6 --num_cutoff_basis=4 --radial_MLP=[8,8] --distance_transform=Agnesi
--pair_repulsion --max_num_epochs=6 --batch_size=3 --valid_batch_size=2 --optimizer=adamw --lr=0.02
--weight_decay=1e-4 --clip_grad=5.0 --scheduler=ReduceLROnPlateau --lr_factor=0.7 --scheduler_patience=1
--ema --ema_decay=0.9 --loss=universal --energy_weight=2.0 --forces_weight=20.0 --stress_weight=3.0
--huber_delta=0.02 --swa --start_swa=4 --swa_lr=0.003 --swa_energy_weight=50 --swa_forces_weight=5
--swa_stress_weight=7 --gate=tanh --use_so3=False --amsgrad --plot=False
"""


def _records(folder):
    """Return all that MACE logged, batch by batch and epoch by epoch, but for the clock."""
    (path,) = folder.glob('results/*_train.txt')
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != 'time'} for record in records]


@pytest.fixture(scope='module')
def folders(tmp_path_factory, compute_python):
    """Return the folders of our training and of the bare one."""
    root = tmp_path_factory.mktemp('bare')
    process = start(root / 'ours', **SETTINGS)
    bare = root / 'bare'
    bare.mkdir()
    data = head_data(copper(), {}, from_dict(TrainingSettings, SETTINGS))['Default']
    for name, frames in (('train', data.train), ('valid', data.valid)):
        atoms = frames.to_atoms()
        for frame in atoms:  # ASE alone writes the file of the bare run
            results, frame.calc = frame.calc.results, None
            frame.info |= {f'REF_{key}': results[key] for key in ('energy', 'stress') if key in results}
            frame.arrays['REF_forces'] = results['forces']
        write(bare / f'{name}.xyz', atoms)
    line = (BARE % data.e0s[29]).split()
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, '-m', 'mace.cli.run_train', *line], cwd=bare, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert process.wait(400) == 0, (root / 'ours' / 'runner.log').read_text()
    member = json.loads((root / 'ours' / 'result.json').read_text())['members']['member_00']
    assert member['status'] == 'ok', member
    return root / 'ours', bare


def test_every_loss_and_error_is_the_same(folders):
    ours, bare = folders
    assert _records(ours / 'member_00') == _records(bare)
    assert sum(record['mode'] == 'eval' for record in _records(bare)) == 7  # before the first epoch, and after each


def test_every_weight_is_the_same(folders):
    ours, bare = folders
    weights = [
        torch.load(path, weights_only=False).state_dict()
        for path in (ours / 'member_00.model', bare / 'member_00_stagetwo.model', bare / 'member_00.model')
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])  # the first stage's


def test_nothing_is_averaged_in_the_second_stage(folders):
    """MACE calls it SWA, and keeps an average that it never hands over; if this fails, MACE has mended it."""
    _, bare = folders
    (path,) = (bare / 'checkpoints').glob('*_swa.pt')
    assert int(path.stem.removesuffix('_swa').rpartition('-')[2]) > 4, 'the average over one epoch would say nothing'
    state = torch.load(bare / 'member_00_stagetwo.model', weights_only=False).state_dict()
    weights = torch.load(path, weights_only=False)['model']
    assert all(torch.equal(state[key], value) for key, value in weights.items())


def test_no_setting_is_left_at_its_default():
    """Else the comparison would say nothing of it."""
    given, default = from_dict(TrainingSettings, SETTINGS), TrainingSettings(seeds=(0,))
    same = {name for name in vars(default) if getattr(given, name) == getattr(default, name)}
    left = {'split_seed', 'e0s', 'device', 'max_parallel', 'threads', 'scheduler', 'lr_scheduler_gamma', 'loss'}
    left |= {'gpus_per_member'}  # see test_several_gpus.py
    left |= {'enable_cueq', 'uncertainty', 'n_readouts', 'bootstrap'}  # not MACE's
    left |= {'freeze', 'lora', 'lora_rank', 'lora_alpha'}  # of a fine-tuning, see test_foundation.py
    assert same == left
