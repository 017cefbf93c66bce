import pytest

from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.settings import from_dict


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'temperature': [300]}, 'Did you mean `temperatures`'),
        ({'temperatures': []}, 'at least one number'),
        ({'temperatures': 300}, 'must be a list'),
        ({'temperatures': [-1]}, 'greater than 0'),
        ({'n_steps': 5, 'stride': 10}, 'no frame would be kept'),
        ({'dtype': 'float16'}, "'float32' or 'float64'"),
        ({'device': 'gpu'}, "'cpu', 'cuda'"),
        ({'n_replicas_per_temperature': 0}, 'at least 1'),
        ({'friction': -0.1}, 'from 0'),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_dict(ExplorationSettings, {'seed': 1, **changes})


def test_batch_depends_on_the_device():
    assert ExplorationSettings(seed=1).atoms_per_batch < ExplorationSettings(seed=1, device='cuda:0').atoms_per_batch
    assert ExplorationSettings(seed=1, batch_atoms=7).atoms_per_batch == 7
