"""Plans that bias dynamics, run as an exploration runs them, with real models."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_mlipal.runners import keeper
from aiida_mlipal.runners.explore import explore
from aiida_mlipal.runners.motion.moving import Langevin
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper

PLANS: dict[str, dict[str, Any]] = {
    'metadynamics': {
        'kind': 'metadynamics',
        'height': 0.2,
        'variables': [
            {'type': 'distance', 'atoms': [0, 1], 'width': 0.2},
            {'type': 'coordination', 'radius': 2.8, 'width': 0.2},
        ],
    },
    'latent': {'kind': 'metadynamics', 'height': 0.2, 'variables': [{'type': 'latent'}]},
    'uncertainty_bias': {'kind': 'uncertainty_bias', 'strength': 0.5, 'max_strength': 0.9},
    'replica_exchange': {'kind': 'replica_exchange'},
}


def settings(plans, **changes) -> ExplorationSettings:
    base = {
        'seed': 5, 'temperatures': [300.0, 400.0], 'n_replicas_per_temperature': 1, 'n_steps': 40, 'stride': 10,
        'n_stream': 4, 'dtype': 'float64', 'batch_atoms': 1000, 'plans': plans,
    }  # fmt: skip
    return ExplorationSettings(**{**base, **changes})


def frames_of(pool: Configurations, trajectory: str) -> np.ndarray:
    rows = np.flatnonzero(pool.trajectory == trajectory)
    return np.array([pool.atoms(row).positions for row in rows])


@pytest.mark.parametrize('name', PLANS)
def test_plan_runs_and_does_not_depend_on_the_batch(name, committee):
    """A run goes to its end; neither smaller batches nor a neighbour that stops at once change it."""
    broken = bulk('Cu', cubic=True)
    broken.positions[1] = broken.positions[0] + [0.3, 0, 0]
    good = Configurations.from_atoms([copper(1), copper(2, repeat=(2, 1, 1))])
    mixed = Configurations.from_atoms([copper(1), broken])
    per_start = {'n_replicas_per_temperature': 2, 'n_stream': 0, 'n_steps': 20}
    pool, _, results = explore(good, committee, settings([PLANS[name]], **per_start))
    assert results['stopped'] == []
    assert len(pool) == 4 * 2
    assert set(pool.origin.tolist()) == {PLANS[name]['kind']}
    small, _, _ = explore(good, committee, settings([PLANS[name]], batch_atoms=8, **per_start))
    np.testing.assert_array_equal(small.temperature, pool.temperature)
    for trajectory in set(pool.trajectory.tolist()):
        np.testing.assert_allclose(frames_of(small, trajectory), frames_of(pool, trajectory), atol=1e-8)
    if name == 'latent':
        return  # the coordinate is one of all starts
    other, _, results = explore(mixed, committee, settings([PLANS[name]], **per_start))
    assert len(results['stopped']) == 2
    first = sorted(set(other.trajectory[other.n_atoms == 4].tolist()))
    assert len(first) == 2
    for trajectory in first:
        np.testing.assert_allclose(frames_of(other, trajectory), frames_of(pool, trajectory), atol=1e-8)


@pytest.mark.parametrize('name', ['metadynamics', 'latent', 'uncertainty_bias'])
def test_bias_acts(name, committee):
    """With the same velocities and noise, the frames differ from plain ones after the first stride."""
    starts = Configurations.from_atoms([copper(1)])
    plain, _, _ = explore(starts, committee[:1] * 2, settings([{'kind': 'dynamics'}], n_stream=0))
    biased, _, _ = explore(starts, committee, settings([PLANS[name]], n_stream=0))
    distances = abs(frames_of(biased, 'i00-r000') - frames_of(plain, 'i00-r000')).max(axis=(1, 2))
    assert (distances[1:] > 1e-4).all()


def test_biased_frames_never_enter_the_random_stream(committee):
    starts = Configurations.from_atoms([copper(1), copper(2)])
    plans = [PLANS[name] for name in ('metadynamics', 'uncertainty_bias', 'replica_exchange')] + [{'kind': 'dynamics'}]
    pool, _, _ = explore(starts, committee, settings(plans, n_steps=20, n_stream=100))
    assert set(pool.role[pool.plan == 'dynamics'].tolist()) == {'calibration', 'test'}
    assert set(pool.role[pool.plan != 'dynamics'].tolist()) == {'candidate'}
    assert set(pool.plan.tolist()) == {'metadynamics', 'uncertainty_bias', 'replica_exchange', 'dynamics'}


def test_exchanged_temperatures_are_those_of_the_frames(committee):
    """All rungs are occupied at each step, and swaps happen: ladders of four atoms overlap."""
    starts = Configurations.from_atoms([copper(1)])
    chosen = settings([PLANS['replica_exchange']], temperatures=[300.0, 330.0, 360.0], n_steps=60, n_stream=0)
    pool, _, results = explore(starts, committee, chosen)
    rises = sum(results['plans']['replica_exchange']['swaps'])
    for step in range(10, 70, 10):
        assert sorted(pool.temperature[pool.step == step].tolist()) == [300.0, 330.0, 360.0]
    first = pool.temperature[pool.trajectory == 'i00-r000']
    assert len(set(first.tolist())) > 1
    # The frames of the last stride do not tell the swaps after it.
    by_step = [
        sorted(zip(pool.trajectory[pool.step == step], pool.temperature[pool.step == step], strict=True))
        for step in range(10, 70, 10)
    ]
    assert rises == sum(
        after[1] > before[1] for one, other in pairwise(by_step) for before, after in zip(one, other, strict=True)
    )


def test_starts_are_checked_before_anything_moves(committee):
    starts = Configurations.from_atoms([Atoms('Cu2', positions=[[0, 0, 0], [2.4, 0, 0]])])
    angle = {'kind': 'metadynamics', 'variables': [{'type': 'angle', 'atoms': [0, 1, 2], 'width': 5.0}]}
    with pytest.raises(ValueError, match='has no atom 2'):
        explore(starts, committee, settings([angle]))


@pytest.mark.parametrize('name', ['metadynamics', 'uncertainty_bias', 'replica_exchange'])
def test_killed_job_goes_on_with_its_bias(name, committee, tmp_path, monkeypatch):
    """Hills, strengths and temperatures are kept: to round-off, the frames are those of a job that was not killed."""
    starts = Configurations.from_atoms([copper(1)])
    whole, _, expected = explore(starts, committee, settings([PLANS[name]]))
    monkeypatch.setattr(keeper, '_PAUSE', 0)
    blocks = 0
    start_block = Langevin.start_block

    def killed(self, n_steps):
        nonlocal blocks
        blocks += 1
        if blocks == 4:
            raise KeyboardInterrupt
        start_block(self, n_steps)

    monkeypatch.setattr(Langevin, 'start_block', killed)
    with pytest.raises(KeyboardInterrupt):
        explore(starts, committee, settings([PLANS[name]]), tmp_path)
    pool, _, results = explore(starts, committee, settings([PLANS[name]]), tmp_path)
    assert blocks == 5  # the fourth of four was the only one left to do
    np.testing.assert_array_equal(pool.temperature, whole.temperature)
    for trajectory in set(whole.trajectory.tolist()):
        np.testing.assert_allclose(frames_of(pool, trajectory), frames_of(whole, trajectory), atol=1e-8)
    _, _, again = explore(starts, committee, settings([PLANS[name]]), tmp_path)
    assert blocks == 5, 'a plan at its end is not run again'
    assert again['found'] == results['found']
    for own, undisturbed in zip(results['found'], expected['found'], strict=True):
        if name == 'metadynamics':
            assert len(own['hills']['heights']) == 4
            np.testing.assert_allclose(own['hills']['heights'], undisturbed['hills']['heights'])
        else:
            np.testing.assert_allclose(own['strength'], undisturbed['strength'])
    if name == 'replica_exchange':
        assert results['plans'][name]['swaps'] == expected['plans'][name]['swaps']
