from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.starts import SOURCES, choose_starts, counts, weights_of
from tests.committee import copper


@pytest.fixture(scope='module')
def training() -> Configurations:
    return Configurations.from_atoms([copper(seed) for seed in range(12)])


@pytest.fixture(scope='module')
def pool() -> Configurations:
    origin = ['dynamics', 'last_safe', 'first_unsafe', 'last_safe', 'last_safe']
    return Configurations.from_atoms([copper(seed) for seed in range(20, 25)], origin=origin, role='candidate')


def choose(training, n=8, shares=None, seed=1, **sources) -> Configurations:
    given = {'uncertainties': {}, 'previous_pool': Configurations.empty(), 'structures': Configurations.empty()}
    return choose_starts(
        n, shares or {'training': 1.0}, training, rng=np.random.default_rng(seed), **{**given, **sources}
    )


def test_shares_are_kept_and_recorded(training, pool):
    structures = Configurations.from_atoms([copper(30)])
    shares = {'training': 0.5, 'uncertain': 0.125, 'last_safe': 0.25, 'structures': 0.125}
    known = dict.fromkeys(training.frame_id.tolist(), 0.1)
    starts = choose(training, 8, shares, uncertainties=known, previous_pool=pool, structures=structures)
    assert {source: (starts.origin == source).sum() for source in SOURCES} == {
        'training': 4, 'uncertain': 1, 'last_safe': 2, 'structures': 1,
    }  # fmt: skip
    assert len(set(starts.frame_id.tolist())) == 8
    broken = starts.take(starts.origin == 'last_safe')
    assert set(broken.frame_id.tolist()) <= set(pool.frame_id[pool.origin == 'last_safe'].tolist())
    again = choose(training, 8, shares, uncertainties=known, previous_pool=pool, structures=structures)
    assert again.frame_id.tolist() == starts.frame_id.tolist()
    other = choose(training, 8, shares, seed=2, uncertainties=known, previous_pool=pool, structures=structures)
    assert other.frame_id.tolist() != starts.frame_id.tolist()


def test_what_a_source_lacks_comes_from_the_training_set(training, pool):
    shares = {'uncertain': 0.5, 'last_safe': 0.5}
    assert set(choose(training, 8, shares).origin.tolist()) == {'training'}
    starts = choose(training, 10, shares, previous_pool=pool)
    assert (starts.origin == 'last_safe').sum() == 3
    assert (starts.origin == 'training').sum() == 7
    assert len(choose(training, 100)) == len(training)


def test_uncertain_frames_are_drawn_as_often_as_they_are_uncertain(training):
    known = {frame_id: 3.0 if row < 3 else 1.0 for row, frame_id in enumerate(training.frame_id.tolist())}
    n_draws = 3000
    drawn = [
        choose(training, 1, {'uncertain': 1.0}, seed=seed, uncertainties=known).frame_id[0] for seed in range(n_draws)
    ]
    share = np.isin(drawn, training.frame_id[:3]).mean()
    assert share == pytest.approx(9 / 18, abs=4 * np.sqrt(0.25 / n_draws))


def test_frames_that_nobody_evaluated_are_as_likely_as_usual():
    ids = np.array(['a', 'b', 'c', 'd'])
    assert weights_of(ids, {'a': 1.0, 'b': 2.0, 'c': 6.0}).tolist() == [1.0, 2.0, 6.0, 2.0]
    assert weights_of(ids, {}).tolist() == [1.0] * 4


@given(st.lists(st.integers(0, 100), min_size=4, max_size=4).filter(sum), st.integers(1, 50))
def test_counts_add_up_and_are_within_one_of_the_share(values, n):
    shares = {source: value / sum(values) for source, value in zip(SOURCES, values, strict=True)}
    found = counts(shares, n)
    assert sum(found.values()) == n
    assert all(abs(found[source] - n * shares[source]) < 1 for source in SOURCES)


@pytest.mark.parametrize(
    ('shares', 'message'),
    [
        ({'trainin': 1.0}, 'unknown source `trainin`. Did you mean `training`'),
        ({'training': 0.5}, 'must add up to 1, but .* add up to 0.5'),
        ({'training': -1}, 'from 0 to 1'),
        ({}, 'a mapping of shares'),
        (['training'], 'a mapping of shares'),
    ],
)
def test_bad_shares_are_named(shares, message):
    with pytest.raises(ValueError, match=message):
        ExplorationSettings(seed=1, starts=shares)
