from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.runners.explore import explore
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper


def _settings(**changes) -> ExplorationSettings:
    plan = {'kind': 'random_search', 'n_structures': 3, 'max_steps': 20, 'save_every': 10, **changes}
    return ExplorationSettings(seed=4, dtype='float64', n_stream=4, plans=[plan])


@pytest.fixture(scope='module')
def starts() -> Configurations:
    return Configurations.from_atoms([copper(1), copper(2)], reference_cell=np.eye(3) * 7, multiplicity=3)


def test_random_cells_are_relaxed_and_kept(starts, committee):
    pool, evaluation, results = explore(starts, committee, _settings())
    assert pool.frame_id.tolist() == evaluation.frame_id.tolist()
    assert set(pool.role.tolist()) == {'candidate'}
    assert len(results['found']) + len(results['stopped']) == 3
    assert len(results['found']) >= 2
    for trajectory in sorted(set(pool.trajectory.tolist())):
        mine = pool.take(pool.trajectory == trajectory)
        # The mesh of k-points follows from the cell's own beginning and stays through the relaxation.
        assert not np.allclose(mine.reference_cell[0], np.eye(3) * 7)
        np.testing.assert_array_equal(mine.reference_cell, np.repeat(mine.reference_cell[:1], len(mine), axis=0))
        assert mine.parent[0] == starts.frame_id[int(trajectory[-3:]) % 2]
    again, _, _ = explore(starts, committee, _settings())
    assert again.frame_id.tolist() == pool.frame_id.tolist()


def test_other_compositions_leave_the_spin_to_the_level_of_theory(starts, committee):
    pool, _, _ = explore(starts, committee, _settings(composition={'Cu': 3}, max_steps=4, save_every=2))
    assert set(pool.n_atoms.tolist()) == {3}
    assert set(pool.multiplicity.tolist()) == {0}


def test_elements_that_the_model_does_not_know_are_refused(starts, committee):
    with pytest.raises(ValueError, match='the random cells of plan `random_search` hold Au'):
        explore(starts, committee, _settings(composition={'Au': 3}))


def test_what_was_found_is_kept_for_a_job_that_goes_on(starts, committee, tmp_path):
    first = explore(starts, committee, _settings(), tmp_path)
    again = explore(starts, committee, _settings(), tmp_path)
    assert again[0] == first[0]
    assert again[2]['found'] == first[2]['found']
