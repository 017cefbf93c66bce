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
        ({'friction': 0}, 'greater than 0'),
        ({'min_volume_factor': 1.5}, 'must be a number from 0 to 1'),
        ({'min_volume_factor': 0.9, 'max_volume_factor': 0.95}, 'the start must lie between `min_volume_factor`'),
        ({'max_uncertainty': 0}, 'greater than 0'),
        ({'n_steps': 0}, 'at least 1'),
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


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'ensemble': 'npt_full'}, 'unknown ensemble `npt_full`. Did you mean `npt_full_cell`'),
        ({'pressures': [5.0]}, 'whose cell is fixed: set `ensemble: npt`'),
        ({'ensemble': 'npt', 'pressures': []}, 'at least one number in GPa'),
        ({'ensemble': 'npt', 'pressures': ['high']}, 'must be a finite number'),
        ({'ramp': [300, 600]}, r'list of pairs \[step, temperature in K\]'),
        ({'ramp': [[10, 300], [20, 600]]}, 'must begin at 0 and rise'),
        ({'ramp': [[0, 300], [20, 600], [20, 900]]}, 'must begin at 0 and rise'),
        ({'ramp': [[0, 300], [20, -600]]}, 'greater than 0'),
        ({'ramp': [[0, 300], [20, 600]], 'ensemble': 'nve'}, 'needs a bath'),
        ({'strain_rates': {'xxx': 0.1}}, 'Did you mean `xx`'),
        ({'strain_rates': 0.1}, 'must be a mapping'),
        ({'strain_rates': {'xx': 0.1}, 'ensemble': 'npt'}, 'would both move the cell'),
        ({'barostat_time': 0}, 'greater than 0'),
    ],
)
def test_bad_dynamics_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ExplorationSettings(seed=1, plans=[{'kind': 'dynamics', **changes}])


def test_every_temperature_meets_every_pressure():
    plan = {'kind': 'dynamics', 'ensemble': 'npt', 'temperatures': [300, 600], 'pressures': [-2, 0, 5]}
    (read,) = ExplorationSettings(seed=1, n_replicas_per_temperature=2, plans=[plan]).read_plans()
    grid = [(t, p) for t in (300.0, 600.0) for p in (-2.0, 0.0, 5.0)]
    assert read.conditions == [condition for condition in grid for _ in range(2)]
    assert read.n_replicas == 12


@pytest.mark.parametrize(
    ('changes', 'unbiased'),
    [
        ({}, True),
        ({'ensemble': 'nvt_nose_hoover'}, True),
        ({'ensemble': 'npt_full_cell', 'pressures': [1]}, True),
        ({'ensemble': 'nve'}, False),
        ({'ramp': [[0, 300], [100, 900]]}, False),
        ({'strain_rates': {'xy': 0.01}}, False),
    ],
)
def test_only_stationary_plans_at_a_temperature_are_unbiased(changes, unbiased):
    (plan,) = ExplorationSettings(seed=1, plans=[{'kind': 'dynamics', **changes}]).read_plans()
    assert plan.is_unbiased is unbiased
