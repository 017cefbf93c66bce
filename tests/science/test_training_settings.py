import pytest

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
        ({'seeds': [1], 'batch_size': 0}, '`batch_size` must be above 0, got 0'),
        ({'seeds': [1], 'lr': float('nan')}, '`lr` must be above 0, got nan'),
        ({'seeds': [1], 'stress_weight': -1.0}, '`stress_weight` must not be negative'),
        ({'seeds': [1], 'valid_fraction': 1.0}, '`valid_fraction` must be between 0 and 1'),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TrainingSettings, settings)
