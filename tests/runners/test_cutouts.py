from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.runners.committee import evaluate
from aiida_mlipal.runners.cutouts import cut_large
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper


@pytest.fixture(scope='module')
def visited(committee):
    """A large cell with one badly displaced atom, a small one, and a large one of the random stream."""
    large = copper(1, strain=0.0, rattle=0.02, repeat=(6, 6, 6))
    large.positions[100] += 0.5
    frames = Configurations.from_atoms(
        [large, copper(2), copper(3, repeat=(3, 3, 4))], role=['candidate', 'candidate', 'test'],
        trajectory=['i00-r000', 'i00-r001', 'i00-r002'], step=[10, 20, 30], parent='fstart', plan='dynamics',
    )  # fmt: skip
    return frames, evaluate(frames, committee, batch_atoms=300)


def test_a_large_candidate_gives_way_to_its_most_uncertain_environment(visited, committee):
    frames, evaluation = visited
    settings = ExplorationSettings(seed=1, dtype='float64', max_label_atoms=120, cutout_radius=4.6)
    pool, judged, (told,) = cut_large(frames, evaluation, committee, settings)
    assert pool.frame_id.tolist() == judged.frame_id.tolist()
    assert pool.frame_id[:2].tolist() == frames.frame_id[1:].tolist()
    assert pool.origin[2] == 'cutout'
    assert (pool.parent[2], pool.trajectory[2], pool.step[2], pool.plan[2]) == ('fstart', 'i00-r000', 10, 'dynamics')
    assert told['parent'] == frames.frame_id[0]
    assert told['frame_id'] == pool.frame_id[2]
    assert told['n_atoms'] == pool.n_atoms[2] == 108
    own = evaluation.forces_std[:864]
    assert told['centre'] == np.argmax(own)
    assert told['uncertainty_before'] == own.max()
    assert told['uncertainty_after'] == pytest.approx(told['uncertainty_before'], rel=0.2)
    assert told['uncertainty_after'] == judged.forces_std[judged.offsets[2] + told['centre_row']]


def test_what_cannot_be_cut_is_out_with_its_reason(visited, committee):
    frames, evaluation = visited
    settings = ExplorationSettings(seed=1, dtype='float64', max_label_atoms=120, cutout_radius=12.0)
    pool, judged, (told,) = cut_large(frames, evaluation, committee, settings)
    assert pool.frame_id.tolist() == judged.frame_id.tolist() == frames.frame_id[1:].tolist()
    assert 'lower `core_radius`' in told['reason']
    settings = ExplorationSettings(seed=1, dtype='float64', max_label_atoms=5, cutout_radius=4.0)
    assert 'more than `max_label_atoms` (5)' in cut_large(frames, evaluation, committee, settings)[2][0]['reason']


def test_without_a_limit_nothing_is_cut(visited, committee):
    frames, evaluation = visited
    pool, _, account = cut_large(frames, evaluation, committee, ExplorationSettings(seed=1))
    assert pool is frames
    assert account == []
