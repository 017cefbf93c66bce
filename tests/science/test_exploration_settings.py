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
        ({'plans': {'kind': 'dynamics'}}, 'must be a list of mappings'),
        ({'plans': [{'kind': 'dynamic'}]}, 'item 0: unknown kind of plan `dynamic`. Did you mean `dynamics`'),
        ({'plans': [{'temperatures': [1]}]}, 'item 0: unknown kind of plan `None`'),
        ({'plans': [{'kind': 'dynamics', 'n_step': 9}]}, r'item 0 \(dynamics\): .* Did you mean `n_steps`'),
        ({'plans': [{'kind': 'dynamics'}, {'kind': 'dynamics'}]}, 'two of `plans` are called `dynamics`'),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_dict(ExplorationSettings, {'seed': 1, **changes})


def test_batch_depends_on_the_device():
    assert ExplorationSettings(seed=1).atoms_per_batch < ExplorationSettings(seed=1, device='cuda:0').atoms_per_batch
    assert ExplorationSettings(seed=1, batch_atoms=7).atoms_per_batch == 7


def test_keys_beside_the_plans_are_their_defaults():
    hot = {'kind': 'dynamics', 'name': 'hot', 'temperatures': [1500.0]}
    settings = ExplorationSettings(seed=1, n_steps=50, n_replicas_per_temperature=3, plans=[{'kind': 'dynamics'}, hot])
    first, second = settings.read_plans()
    assert (first.label, second.label) == ('dynamics', 'hot')
    assert (first.n_steps, second.n_steps, second.replica_temperatures) == (50, 50, [1500.0] * 3)
    assert settings.n_replicas == 9 + 3


def test_without_plans_the_keys_are_the_one_plan():
    (plan,) = ExplorationSettings(seed=1, temperatures=[300.0], n_replicas_per_temperature=2).read_plans()
    assert plan.label == 'dynamics'
    assert plan.n_replicas == 2
