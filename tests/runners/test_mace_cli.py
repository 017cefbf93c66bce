"""MACE's command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from aiida_mlipal.runners.mace_cli import arguments, best_checkpoint
from aiida_mlipal.science.training_settings import TrainingSettings


def _arguments(n_train=100, restart_epoch=None, e0s=None, **settings):
    return arguments(
        TrainingSettings(seeds=(7,), **settings),
        name='member_00',
        seed=7,
        train_file=Path('train.xyz'),
        valid_file=Path('valid.xyz'),
        n_train=n_train,
        e0s=e0s or {14: -100.0},
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
