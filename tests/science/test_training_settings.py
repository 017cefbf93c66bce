import pytest

from aiida_mlipal.science.mace_options import OPTION_OF, REFUSED, SETTING_OF, STAGE_TWO_OPTION_OF
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_settings import TrainingSettings


def test_lists_from_json_become_tuples():
    assert from_dict(TrainingSettings, {'seeds': [3, 1]}).seeds == (3, 1)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({}, 'seeds'),
        ({'seeds': [1], 'batchsize': 3}, 'Did you mean `batch_size`'),
        ({'seeds': []}, '`seeds` must name at least one member'),
        ({'seeds': [1, 1]}, r'`seeds` must differ.*\[1, 1\]'),
        ({'seeds': [1], 'dtype': 'float16'}, 'unknown dtype `float16`.*float32'),
        ({'seeds': [1], 'batch_size': 0}, '`batch_size` must be an integer of at least 1, got 0'),
        ({'seeds': [1], 'lr': float('nan')}, '`lr` must be a number greater than 0, got nan'),
        ({'seeds': [1], 'stress_weight': -1.0}, '`stress_weight` must not be negative'),
        ({'seeds': [1], 'valid_fraction': 1.0}, '`valid_fraction` must be below 1'),
        ({'seeds': [1], 'valid_fraction': 0}, '`valid_fraction` must be above 0: without validation frames'),
        ({'seeds': 1}, '`seeds` must be a list'),
        ({'seeds': ['1']}, "`seeds` must be an integer of at least 0, got '1'"),
        ({'seeds': [1], 'r_max': '5'}, "`r_max` must be a number greater than 0, got '5'"),
        ({'seeds': [1], 'radial_MLP': []}, '`radial_MLP` must name at least one layer'),
        ({'seeds': [1], 'pair_repulsion': 'yes'}, '`pair_repulsion` must be true or false'),
        ({'seeds': [1], 'e0s': 'average'}, "`e0s` must be .*energies in eV by element.*got 'average'"),
        ({'seeds': [1], 'e0s': {'si': -1.0}}, '`e0s`: `si` is no chemical symbol'),
        ({'seeds': [1], 'e0s': {'Si': None}}, '`e0s.Si` must be a finite number'),
        ({'seeds': [1], 'stage_two_share': 0.3, 'loss': 'huber'}, 'without the stress; set `loss` to `universal`'),
        ({'seeds': [1], 'stage_two_share': 0.3, 'max_num_epochs': 1}, 'needs `max_num_epochs` of at least 2'),
        ({'seeds': [1], 'mace_options': ['gate']}, '`mace_options` must map names to values'),
        ({'seeds': [1], 'uncertainty': 'lpr'}, 'Did you mean `llpr`'),
        ({'seeds': [1, 2], 'uncertainty': 'llpr'}, 'trains one model, but there are 2 seeds: set `n_members: 1`'),
        ({'seeds': [1, 2], 'uncertainty': 'none'}, 'or `uncertainty: ensemble`'),
        ({'seeds': [1, 2], 'uncertainty': 'heads'}, 'trains one model, but there are 2 seeds: set `n_members: 1`'),
        ({'seeds': [1], 'uncertainty': 'heads', 'n_readouts': 1}, '`n_readouts` must be an integer of at least 2'),
        (
            {'seeds': [1], 'uncertainty': 'llpr', 'bootstrap': True},
            'set `bootstrap: false`, or `uncertainty: ensemble`',
        ),
        ({'seeds': [1], 'bootstrap': 1}, '`bootstrap` must be true or false'),
        ({'seeds': [1], 'gpus_per_member': 2}, 'but `device` is `cpu`: set `device: cuda`, or `gpus_per_member: 1`'),
        ({'seeds': [1], 'gpus_per_member': 0}, '`gpus_per_member` must be an integer of at least 1'),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TrainingSettings, settings)


@pytest.mark.parametrize(
    ('share', 'epochs', 'start'), [(0.0, 100, None), (0.25, 100, 75), (0.01, 10, 9), (0.99, 10, 1), (0.5, 2, 1)]
)
def test_the_second_stage_begins_after_the_first_epoch_and_before_the_last(share, epochs, start):
    assert TrainingSettings(seeds=(0,), stage_two_share=share, max_num_epochs=epochs).stage_two_start == start


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'lr': 0.1}, '`lr` has a setting of its own; use `lr`'),
        ({'default_dtype': 'float32'}, '`default_dtype` has a setting of its own; use `dtype`'),
        ({'E0s': 'average'}, '`E0s` has a setting of its own; use `e0s`'),
        ({'swa_lr': 0.1}, '`swa_lr` has a setting of its own; use `stage_two_lr`'),
        ({'start_swa': 10}, '`start_swa` has a setting of its own; use `stage_two_share`'),
        ({'hidden_irreps': '8x0e'}, 'cannot be set: set `num_channels` and `max_L`'),
        ({'heads': '{}'}, 'cannot be set: give each level of theory as one of the inputs `other_datasets`'),
        ({'patience': 5}, 'use the monitor `mlipal.training_plateau`'),
        ({'--gate': 'tanh'}, 'write `gate: value`, without dashes'),
        ({'gate': None}, '`gate` has no value; leave it out'),
    ],
)
def test_raw_options_that_are_refused_before_anything_is_submitted(option, message):
    with pytest.raises(ValueError, match=f'`mace_options`: .*{message}'):
        TrainingSettings(seeds=(0,), mace_options=option)


def test_the_names_of_settings_and_options_are_those_of_the_settings():
    fields = set(vars(TrainingSettings(seeds=(0,))))
    assert {*OPTION_OF, *STAGE_TWO_OPTION_OF, *SETTING_OF.values()} <= fields
    assert not set(REFUSED) & set(SETTING_OF)
    assert fields - set(SETTING_OF.values()) == {
        'bootstrap',
        'n_readouts',
        'split_seed',
        'uncertainty',
        'max_parallel',
        'threads',
        'mace_options',
    }
