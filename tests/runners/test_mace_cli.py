"""MACE's command line."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from aiida_mlipal.runners.mace_cli import HeadFiles, arguments, check, model_file, raw_arguments
from aiida_mlipal.runners.main import SettingsRefused
from aiida_mlipal.science.mace_options import REFUSED, SETTING_OF, canonical
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


@pytest.mark.codes
def test_several_gpus(compute_python):
    """`torchrun` is MACE's launcher then; each process takes a batch of its own, of its share of the frames."""
    from mace.tools import build_default_arg_parser

    settings = {'device': 'cuda', 'gpus_per_member': 4, 'batch_size': 8}
    parsed = build_default_arg_parser().parse_args(_arguments(n_train=20, **settings))
    assert (parsed.distributed, parsed.launcher, parsed.device, parsed.batch_size) == (True, 'torchrun', 'cuda', 5)
    parsed = build_default_arg_parser().parse_args(_arguments(n_train=20, batch_size=8))
    assert (parsed.distributed, parsed.launcher, parsed.batch_size) == (False, 'none', 8)


@pytest.mark.codes
def test_mace_has_another_volume_where_a_direction_does_not_repeat(compute_python):
    """This is why a slab is written without its stress: MACE would divide by the volume of a cell of its own."""
    from ase.build import fcc100
    from mace.data.neighborhood import get_neighborhood

    for pbc in ((True, True, False), (True, True, True)):
        slab = fcc100('Al', (1, 1, 3), vacuum=4)
        cell = get_neighborhood(slab.positions, cutoff=5.0, pbc=pbc, cell=slab.cell.array.copy())[3]
        assert (abs(np.linalg.det(cell)) == pytest.approx(slab.get_volume())) == all(pbc)


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


@pytest.mark.parametrize(('epoch', 'start'), [(5, None), (29, None), (30, '29'), (31, '30'), (40, '30')])
def test_a_restart_knows_which_stage_its_checkpoint_is_of(epoch, start):
    """MACE looks for a checkpoint of the second stage only if that begins before the last epoch."""
    line = _arguments(restart_epoch=epoch, max_num_epochs=60, stage_two_share=0.5)
    starts = [text.partition('=')[2] for text in line if text.startswith('--start_stage_two=')]
    assert starts == ([] if start is None else [start])


def test_the_model_is_that_of_the_last_stage(tmp_path):
    assert model_file(tmp_path, 'member_00') == tmp_path / 'member_00.model'
    (tmp_path / 'member_00_stagetwo.model').touch()
    assert model_file(tmp_path, 'member_00') == tmp_path / 'member_00_stagetwo.model'


def test_no_average_of_the_weights():
    assert '--ema' in _arguments()
    assert not any(text.startswith('--ema') for text in _arguments(ema_decay=0))


@pytest.mark.codes
def test_the_names_are_those_of_the_installed_mace(compute_python):
    """Whatever the job sets is refused as a raw option, and no name of ours has gone with a new MACE."""
    from mace.tools import build_default_arg_parser

    known = {text for action in build_default_arg_parser()._actions for text in action.option_strings}
    named = {*SETTING_OF, *REFUSED}
    assert {f'--{name}' for name in named} <= known
    line = _arguments(restart_epoch=40, stage_two_share=0.5, pair_repulsion=True, others={'pbe': _head('_pbe')})
    assert {canonical(text.removeprefix('--').partition('=')[0]) for text in line} <= named


@pytest.mark.codes
def test_raw_options(compute_python):
    options = {'gate': 'tanh', 'use_so3': True, 'lbfgs': True, 'lr_params_factors': {'readouts_lr_factor': 0.5}}
    assert raw_arguments(options) == [
        '--gate=tanh', '--use_so3=True', '--lbfgs', "--lr_params_factors={'readouts_lr_factor': 0.5}",
    ]  # fmt: skip
    assert raw_arguments({}) == []


@pytest.mark.codes
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'gaet': 'tanh'}, r'MACE 0\.3\.\d+ of this computer has no option `gaet`\. Did you mean `gate`\?'),
        ({'num_chanels': 8}, r'no option `num_chanels`\. Did you mean the setting `num_channels`\?'),
        ({'xyzzy': 1}, r'no option `xyzzy`\. See `mace_run_train --help`'),
        ({'lbfgs': 3}, '`lbfgs` is a flag of MACE and only takes true, got 3; leave it out'),
        ({'gate': 'tan'}, r"does not take the settings: argument --gate: invalid choice: 'tan' .*tanh.*Mend them"),
        ({'num_workers': 'two'}, "does not take the settings: argument --num_workers: invalid int value: 'two'"),
    ],
)
def test_raw_options_that_the_installed_mace_refuses(compute_python, options, message):
    settings = TrainingSettings(seeds=(7,), mace_options=options)
    with pytest.raises(SettingsRefused, match=message):
        check(settings, {'Default': _head()})
