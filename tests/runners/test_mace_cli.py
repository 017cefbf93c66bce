"""MACE's command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from aiida_mlipal.runners.mace_cli import HeadFiles, arguments, best_checkpoint
from aiida_mlipal.science.training_settings import TrainingSettings


def _head(name='', n_train=100, e0s=None):
    train_file, valid_file = Path(f'train{name}.xyz'), Path(f'valid{name}.xyz')
    return HeadFiles(train_file=train_file, valid_file=valid_file, n_train=n_train, e0s=e0s or {14: -100.0})


def _arguments(restart_epoch=None, others=None, n_train=100, e0s=None, **settings):
    return arguments(
        TrainingSettings(seeds=(7,), **settings),
        name='member_00',
        seed=7,
        heads={**(others or {}), 'Default': _head(n_train=n_train, e0s=e0s)},
        restart_epoch=restart_epoch,
    )


@pytest.mark.codes
def test_mace_understands_them(compute_python):
    """Through MACE's own parser: names and types are right, and what must not be left to defaults is set."""
    from mace.tools import build_default_arg_parser

    e0s = {14: -107.23456789012345, 6: -1e-17}
    parsed = build_default_arg_parser().parse_args(_arguments(e0s=e0s, r_max=5.5, max_L=1, dtype='float64'))
    assert ast.literal_eval(parsed.E0s) == e0s
    assert (parsed.name, parsed.seed, parsed.r_max, parsed.max_L) == ('member_00', 7, 5.5, 1)
    assert parsed.default_dtype == 'float64'
    assert (parsed.energy_key, parsed.forces_key, parsed.stress_key) == ('REF_energy', 'REF_forces', 'REF_stress')
    assert parsed.plot is False
    assert parsed.save_cpu is True
    assert parsed.restart_latest is False
    assert parsed.loss != 'weighted'  # it ignores the stress


def test_a_batch_is_never_larger_than_the_set():
    """MACE drops incomplete batches, so it would train on nothing."""
    assert '--batch_size=3' in _arguments(n_train=3, batch_size=5)
    assert '--batch_size=5' in _arguments(n_train=30, batch_size=5)


def test_one_head_is_not_named():
    assert not any(argument.startswith('--heads') for argument in _arguments())


@pytest.mark.codes
def test_heads_have_files_and_atoms_of_their_own_and_the_main_one_is_last(compute_python):
    """MACE keeps the epoch at which the last head was best."""
    from mace.tools import build_default_arg_parser

    line = _arguments(others={'pbe': _head('_pbe', n_train=2, e0s={14: -3.0})}, n_train=50, batch_size=5)
    parsed = build_default_arg_parser().parse_args(line)
    heads = ast.literal_eval(parsed.heads)
    assert list(heads) == ['pbe', 'Default']
    assert heads['Default'] == {}  # it takes the files and energies of the command line
    assert (parsed.train_file, ast.literal_eval(parsed.E0s)) == ('train.xyz', {14: -100.0})
    assert (heads['pbe']['train_file'], heads['pbe']['valid_file']) == ('train_pbe.xyz', 'valid_pbe.xyz')
    assert ast.literal_eval(heads['pbe']['E0s']) == {14: -3.0}
    assert parsed.batch_size == 2  # no head has fewer frames


def test_a_restart_trains_no_further_epoch():
    arguments = _arguments(restart_epoch=12, max_num_epochs=60)
    assert '--max_num_epochs=12' in arguments
    assert '--restart_latest' in arguments


def test_best_checkpoint(tmp_path):
    assert best_checkpoint(tmp_path) is None
    (tmp_path / 'checkpoints').mkdir()
    for name in ('member_00_run-7_epoch-9.pt', 'member_00_run-7_epoch-10.pt', 'member_00_run-7.model'):
        (tmp_path / 'checkpoints' / name).touch()
    assert best_checkpoint(tmp_path) == 10
