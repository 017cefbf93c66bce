"""Faults of MACE that are worked around. Where a test here fails, MACE has mended the fault: take the way round it out.

Others have their tests beside what they are for: ``test_checkpoints`` (restart, deleted checkpoints), ``test_cueq``
(kernels), ``test_large_data`` (heads in HDF5), ``test_mace_cli`` (volume of a slab), ``test_warm_start`` (weights).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from tests.runners.training import copper

pytestmark = pytest.mark.codes

LINE = """
--name=x --seed=1 --train_file=train.xyz --valid_file=valid.xyz --E0s={29:-7.0} --device=cpu
--energy_key=REF_energy --forces_key=REF_forces --stress_key=REF_stress --default_dtype=float32
--model=ScaleShiftMACE --r_max=4.5 --num_channels=2 --max_L=0 --max_ell=1 --num_interactions=1 --correlation=1
--plot=False --eval_interval=1 --error_table=PerAtomRMSE --loss=weighted --compute_stress=True --stress_weight=1e6
"""


def _write(folder):
    """Write five frames and the isolated atom to train, and four to validate."""
    folder.mkdir()
    frames = copper(9)
    order = [9, 0, 1, 2, 3, 4]
    frames.take(order).write_extxyz(folder / 'train.xyz')
    frames.take([5, 6, 7, 8]).write_extxyz(folder / 'valid.xyz')
    path = folder / 'train.xyz'
    text = path.read_text()
    assert text.count('role=isolated_atom') == 1
    path.write_text(text.replace('role=isolated_atom', 'config_type=IsolatedAtom'))
    return frames


def _mace(folder, *options):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(
        [sys.executable, '-m', 'mace.cli.run_train', *LINE.split(), *options],
        cwd=folder, env=environment, stdout=(folder / 'log').open('w'), stderr=subprocess.STDOUT,
    )  # fmt: skip


def _records(folder, mode):
    (path,) = folder.glob('results/*_train.txt')
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if record['mode'] == mode and record['epoch'] is not None]


@pytest.fixture(scope='module')
def bare(tmp_path_factory, compute_python):
    """Return the folders of bare runs: one that has nothing to learn, one that diverges, one with a large batch."""
    root = tmp_path_factory.mktemp('faults')
    runs = {
        'idle': ('--batch_size=2', '--max_num_epochs=6', '--patience=1', '--lr=1e-30'),
        'diverged': ('--batch_size=5', '--max_num_epochs=3', '--lr=1e30', '--clip_grad=1e30'),
        'large': ('--batch_size=9', '--max_num_epochs=1'),
    }
    for name, options in runs.items():
        _write(root / name)
        process = _mace(root / name, *options)
        process.wait(400)
    return root


def test_patience_announces_a_stop_and_goes_on(bare):
    """ACEsuit/mace#1384, for which there is the monitor."""
    assert 'Stopping optimization after' in (bare / 'idle' / 'log').read_text()
    assert [record['epoch'] for record in _records(bare / 'idle', 'eval')] == list(range(6))


def test_the_last_batch_is_dropped(bare):
    """Of 5 frames in batches of 2 it trains on 4."""
    assert sum(record['epoch'] == 0 for record in _records(bare / 'idle', 'opt')) == 2


def test_a_batch_larger_than_the_set_trains_on_nothing(bare):
    assert not list((bare / 'large').glob('results/*_train.txt')) or not _records(bare / 'large', 'opt')


def test_an_isolated_atom_overrides_the_energies_of_the_atoms(bare):
    path = bare / 'idle' / 'x.model'
    energies = torch.load(path, weights_only=False).atomic_energies_fn.atomic_energies
    assert float(energies.ravel()[0]) == pytest.approx(float(copper().energy[-1]), abs=1e-4)
    assert float(energies.ravel()[0]) != pytest.approx(-7.0, abs=1e-3)


def test_a_loss_that_is_no_number_is_taken_for_the_best(bare):
    """MACE goes on to the last epoch; our own loop ends with an error at the first."""
    losses = [record['loss'] for record in _records(bare / 'diverged', 'eval')]
    assert len(losses) == 3
    assert not any(math.isfinite(loss) for loss in losses)


def test_the_weighted_loss_ignores_the_stress(compute_python):
    """Whatever its weight."""
    from mace.tools import build_default_arg_parser
    from mace.tools.scripts_utils import get_loss_fn

    arguments = build_default_arg_parser().parse_args(LINE.split())
    assert (arguments.loss, arguments.compute_stress, arguments.stress_weight) == ('weighted', True, 1e6)
    loss = get_loss_fn(arguments, dipole_only=False, compute_dipole=False)
    assert {name for name, _ in loss.named_buffers()} == {'energy_weight', 'forces_weight'}


def test_e3nn_alone_cannot_be_imported(compute_python):
    """It reads a pickle that PyTorch refuses since 2.6, unless MACE has been imported before: so we always do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith('TORCH_FORCE')}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', 'import e3nn.o3'],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'weights_only' in done.stderr
