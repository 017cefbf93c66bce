"""The plan of an iteration is a function of the campaign's seed and of what came before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from aiida import orm
from ase.build import bulk

from aiida_mlipal.calculations.functions.plan import plan_final_training, plan_iteration, start_campaign
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.calibration.conformal import LEVELS, Intervals
from aiida_mlipal.science.calibration.fit import Calibration
from aiida_mlipal.science.configurations import Configurations


def _dataset(n_frames: int = 10) -> ConfigurationsData:
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(n_frames):
        atoms = bulk('Si')
        atoms.positions += rng.normal(scale=0.05, size=(2, 3))
        frames.append(atoms)
    role = ['train'] * (n_frames - 3) + ['calibration', 'test', 'isolated_atom']
    data = Configurations.from_atoms(frames, role=role, energy=0.0, forces=[0.0, 0.0, 0.0], stress=[0.0] * 6)
    status = ['labelled'] * n_frames
    status[0] = 'rejected'
    return ConfigurationsData(data.with_columns(status=status), level_of_theory={'code': 'test'})


def _plan(dataset, decision, seed=1, starts=None, **sources):
    exploration = {'temperatures': [300.0], 'n_replicas_per_temperature': 4, **({'starts': starts} if starts else {})}
    return plan_iteration(
        dataset=dataset,
        decision=decision,
        seed=orm.Int(seed),
        training=orm.Dict({'n_members': 3}),
        exploration=orm.Dict(exploration),
        selection=orm.Dict({'n_labels': 10, 'random_share': 0.4}),
        **sources,
    )


def test_seeds_differ_by_member_and_iteration_and_repeat_with_the_seed():
    dataset = _dataset()
    start = start_campaign(dataset)
    assert start['n_labels'] == 9
    plans = [_plan(dataset, start), _plan(dataset, start), _plan(dataset, start, seed=2)]
    seeds = [plan['training']['seeds'] for plan in plans]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(set(seeds[0])) == 3
    later = _plan(dataset, orm.Dict({**start.get_dict(), 'iteration': 0}))
    assert not set(later['training']['seeds']) & set(seeds[0])
    assert plans[0]['exploration']['n_stream'] == 4
    assert plans[0]['exploration']['iteration'] == 0
    assert plan_final_training(start, orm.Int(1), orm.Dict({'n_members': 3}))['seeds'] == seeds[0]


def test_starts_are_labelled_training_frames():
    dataset = _dataset()
    starts = _plan(dataset, start_campaign(dataset))['starts'].configurations
    assert len(starts) == len(set(starts.frame_id.tolist())) == 4
    assert set(starts.role.tolist()) == {'train'}
    assert starts.is_labelled.all()


def test_labels_of_an_initial_dataset_are_not_charged():
    dataset = _dataset()
    initial = ConfigurationsData(dataset.configurations.take([0, 1, 2]), level_of_theory={'code': 'test'})
    start = start_campaign(dataset, initial)
    assert (start['n_initial'], start['n_labels']) == (3, 6)


def test_starts_continue_where_the_previous_iteration_broke():
    dataset = _dataset()
    origins = ['last_safe', 'dynamics', 'last_safe', 'first_unsafe']
    atoms = [bulk('Si') * (1, 1, n) for n in (1, 2, 3, 4)]
    pool = ConfigurationsData(Configurations.from_atoms(atoms, origin=origins, role='candidate'))
    structures = ConfigurationsData(Configurations.from_atoms([bulk('Si', cubic=True)]))
    shares = {'last_safe': 0.5, 'structures': 0.25, 'training': 0.25}
    plan = _plan(dataset, start_campaign(dataset), starts=shares, pool=pool, structures=structures)
    starts = plan['starts'].configurations
    by_origin = {origin: set(starts.frame_id[starts.origin == origin].tolist()) for origin in shares}
    assert by_origin['last_safe'] == set(pool.configurations.frame_id[[0, 2]].tolist())
    assert by_origin['structures'] == set(structures.configurations.frame_id.tolist())
    assert by_origin['training'] <= set(dataset.configurations.frame_id.tolist())
    assert plan['starts'].base.links.get_incoming().one().node.inputs.pool.uuid == pool.uuid


def test_what_is_too_large_for_a_label_continues_as_it_was():
    dataset = _dataset()
    pool = Configurations.from_atoms([bulk('Si'), bulk('Si') * 2], origin=['cutout', 'last_safe'], role='candidate')
    uncut = Configurations.from_atoms([bulk('Si') * 4, bulk('Si') * 5], origin=['last_safe', 'dynamics'])
    sources = {'pool': ConfigurationsData(pool), 'uncut': ConfigurationsData(uncut)}
    starts = _plan(dataset, start_campaign(dataset), starts={'last_safe': 1.0}, **sources)['starts'].configurations
    continued = set(starts.frame_id[starts.origin == 'last_safe'].tolist())
    assert continued == {pool.frame_id[1], uncut.frame_id[0]}


def test_ends_of_paths_are_structures_of_the_campaign():
    dataset = _dataset()
    structures = Configurations.from_atoms([bulk('Si', cubic=True), bulk('Si', cubic=True) * (2, 1, 1), bulk('Si')])
    exploration = {'plans': [{'kind': 'dynamics', 'temperatures': [300.0]}, {'kind': 'neb', 'ends': [[2, 0]]}]}
    plan = plan_iteration(
        dataset=dataset, decision=start_campaign(dataset), seed=orm.Int(1), training=orm.Dict({'n_members': 1}),
        exploration=orm.Dict(exploration), selection=orm.Dict({'n_labels': 4}),
        structures=ConfigurationsData(structures),
    )  # fmt: skip
    starts = plan['starts'].configurations
    first, last = plan['exploration']['plans'][1]['ends'][0]
    assert starts.frame_id[[first, last]].tolist() == structures.frame_id[[2, 0]].tolist()
    assert starts.origin.tolist() == ['training'] * 5 + ['end'] * 2
    assert plan['exploration']['plans'][0] == exploration['plans'][0]


@pytest.mark.parametrize('power', [1.0, 0.7])
def test_replicas_end_where_the_trust_window_of_the_last_calibration_does(power):
    """At the bound the error to expect of the largest start is the upper end of the window."""
    fitted = Calibration(
        uncertainty='forces_max', alpha=3.0, power=power, pivot=0.05, scales={}, force_rmse=0.1, lower=0.2, upper=0.8,
        n_frames=30, n_broken=0, n_trajectories=10, n_atoms=60, n_members=4, correction='', form='',
        intervals=Intervals(pooled=[None] * len(LEVELS), compositions={}), metrics={},
    )  # fmt: skip
    dataset = _dataset()
    start = start_campaign(dataset)
    node = orm.Dict({'fitted': True, **fitted.to_dict()})
    bound = _plan(dataset, start, calibration=node)['exploration']['max_uncertainty']
    expected = fitted.expected_errors(np.array([bound]), np.array([2]))  # frames of two atoms
    np.testing.assert_allclose(expected, 0.8, rtol=1e-12)
    unfitted = _plan(dataset, start, calibration=orm.Dict({'fitted': False}))
    assert unfitted['exploration']['max_uncertainty'] is None
    of_energies = orm.Dict({'fitted': True, **replace(fitted, uncertainty='energy').to_dict()})
    assert _plan(dataset, start, calibration=of_energies)['exploration']['max_uncertainty'] is None
