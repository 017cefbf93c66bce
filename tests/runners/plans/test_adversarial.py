from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.runners.committee import evaluate
from aiida_mlipal.runners.explore import explore
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.plans.adversarial import Likelihood
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import replica_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper


@pytest.fixture(scope='module')
def starts() -> Configurations:
    return Configurations.from_atoms([copper(1), copper(2)])


def test_the_gradient_agrees_with_finite_differences(starts, committee):
    likelihood = Likelihood(MaceForces(committee), 1000.0)
    systems = Systems([replica_at(starts, row, row) for row in range(2)])
    _, gradient, variance, _ = likelihood(systems)
    evaluation = evaluate(starts, committee, batch_atoms=64)
    expected = [np.mean(own**2) for own in np.split(evaluation.forces_std, [4])]
    np.testing.assert_allclose(variance.numpy(), expected, rtol=1e-8)
    step = 1e-4
    origin = systems.positions.clone()
    for atom, direction in ((0, 0), (2, 1), (5, 2)):
        values = []
        for sign in (1, -1):
            systems.positions = origin.clone()
            systems.positions[atom, direction] += sign * step
            values.append(likelihood(systems)[0].sum().item())
        assert gradient[atom, direction].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def test_the_uncertainty_grows(starts, committee):
    plan = {'kind': 'adversarial', 'n_attacks': 3, 'n_moves': 20, 'save_every': 10, 'temperature': 3000.0}
    settings = ExplorationSettings(seed=3, dtype='float64', n_stream=2, plans=[plan])
    pool, evaluation, results = explore(starts, committee, settings)
    assert pool.frame_id.tolist() == evaluation.frame_id.tolist()
    assert set(pool.role.tolist()) == {'candidate'}
    assert len(results['found']) == 3
    for found in results['found']:
        assert found['spread_after'] > 1.1 * found['spread_before']
    last = pool.step == 20
    row = int(np.flatnonzero(last)[0])
    own = evaluation.forces_std[evaluation.offsets[row] : evaluation.offsets[row + 1]]
    found = next(item for item in results['found'] if item['trajectory'] == pool.trajectory[row])
    assert found['spread_after'] == pytest.approx(np.sqrt(np.mean(own**2)), rel=1e-6)
    again, _, _ = explore(starts, committee, settings)
    assert again.frame_id.tolist() == pool.frame_id.tolist()


def test_one_member_without_an_uncertainty_is_refused(starts, committee):
    settings = ExplorationSettings(seed=3, dtype='float64', plans=[{'kind': 'adversarial'}])
    with pytest.raises(ValueError, match='needs an uncertainty'):
        explore(starts, committee[:1], settings)
