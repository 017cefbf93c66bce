from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_metadynamics import MetadynamicsPlan, free_energy
from aiida_mlipal.science.settings import from_dict

DISTANCE = {'type': 'distance', 'atoms': [0, 1], 'width': 0.1}


@pytest.mark.parametrize(
    ('plan', 'message'),
    [
        ({'kind': 'metadynamics'}, 'variables'),
        ({'kind': 'metadynamics', 'variables': []}, '`variables` must be a list of mappings'),
        ({'kind': 'metadynamics', 'variables': [{'type': 'bond'}]}, 'unknown type of variable `bond`'),
        ({'kind': 'metadynamics', 'variables': [{'type': 'distance', 'width': 0.1}]}, r'item 0 \(distance\): .*atoms'),
        ({'kind': 'metadynamics', 'variables': [{**DISTANCE, 'atoms': [0, 0]}]}, '2 different indices'),
        ({'kind': 'metadynamics', 'variables': [{**DISTANCE, 'atoms': [0, -1]}]}, 'at least 0'),
        ({'kind': 'metadynamics', 'variables': [{**DISTANCE, 'widht': 1}]}, 'Did you mean `width`'),
        ({'kind': 'metadynamics', 'variables': [{**DISTANCE, 'width': 0}]}, '`width` must be a number greater than 0'),
        ({'kind': 'metadynamics', 'variables': [{'type': 'coordination', 'radius': 2, 'width': 1, 'centres': 'Sj'}]},
         '`centres` must be a chemical symbol'),
        ({'kind': 'metadynamics', 'variables': [DISTANCE], 'bias_factor': 1}, 'greater than 1'),
        ({'kind': 'metadynamics', 'variables': [DISTANCE], 'heigth': 1}, 'Did you mean `height`'),
        ({'kind': 'uncertainty_bias', 'form': 'linaer'}, 'Did you mean `linear`'),
        ({'kind': 'uncertainty_bias', 'strength': 0.5, 'max_strength': 0.4}, 'from 0.5 to 1'),
        ({'kind': 'uncertainty_bias', 'strengh': 0.5}, 'Did you mean `strength`'),
        ({'kind': 'replica_exchange', 'temperatures': [300.0]}, 'two or more that rise'),
        ({'kind': 'replica_exchange', 'temperatures': [300.0, 900.0, 600.0]}, 'two or more that rise'),
        ({'kind': 'plumed', 'input': 'd: DISTANCE ATOMS=1,2'}, 'list of the lines'),
        ({'kind': 'plumed', 'input': ['e: ENERGY', 'RESTRAINT ARG=e AT=0 KAPPA=1']}, 'a bias on `ENERGY`'),
    ],
)  # fmt: skip
def test_bad_plans_are_named(plan, message):
    with pytest.raises(ValueError, match=message):
        from_dict(ExplorationSettings, {'seed': 1, 'plans': [plan]})


def test_biased_plans_take_the_keys_of_dynamics_and_give_nothing_to_the_stream():
    plans = [
        {'kind': 'metadynamics', 'variables': [DISTANCE]},
        {'kind': 'uncertainty_bias', 'n_steps': 30},
        {'kind': 'replica_exchange'},
        {'kind': 'plumed', 'input': ['d: DISTANCE ATOMS=1,2']},
    ]
    settings = ExplorationSettings(seed=1, n_steps=60, temperatures=[300.0, 400.0], plans=plans)
    read = settings.read_plans()
    assert [plan.n_steps for plan in read] == [60, 30, 60, 60]
    assert [plan.n_replicas for plan in read] == [8] * 4
    assert not any(plan.is_unbiased for plan in read)


def test_starts_without_the_atoms_of_a_variable_are_refused():
    water, salt = (
        Configurations.from_atoms([molecule('H2O')]),
        Configurations.from_atoms([bulk('NaCl', 'rocksalt', a=5.6)]),
    )
    angle = MetadynamicsPlan(variables=[{'type': 'angle', 'atoms': [1, 0, 2], 'width': 5.0}], name='bend')
    angle.check_starts(water)
    with pytest.raises(ValueError, match=rf'plan `bend`: start {salt.frame_id[0]} of 2 atoms has no atom 2.*`angle`'):
        angle.check_starts(salt)
    count = {'type': 'coordination', 'radius': 2.0, 'centres': 'Na', 'width': 0.1}
    MetadynamicsPlan(variables=[count]).check_starts(salt)
    with pytest.raises(ValueError, match='has no Na'):
        MetadynamicsPlan(variables=[count]).check_starts(water)


def test_free_energy_is_the_scaled_sum_of_hills():
    points = np.array([[-170.0], [0.0], [170.0]])
    heights = np.array([0.2, 0.1])
    found = free_energy(
        points, np.array([[175.0], [0.0]]), heights, np.array([10.0]), bias_factor=5.0, periods=np.array([360.0])
    )
    bias = 0.2 * np.exp([-0.5 * 1.5**2, -0.5 * 17.5**2, -0.5 * 0.5**2]) + 0.1 * np.exp([-0.5 * 17**2, 0, -0.5 * 17**2])
    np.testing.assert_allclose(found, -1.25 * bias + 1.25 * bias.max(), atol=1e-12)
