import numpy as np
import pytest
from scipy.stats import rankdata

from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.tuning import (
    TuningSettings,
    best_point,
    choose_size,
    committee_sizes,
    grid,
    summarise_members,
)


def test_the_grid_has_every_pair_once_and_small_batches_first():
    settings = from_dict(TuningSettings, {'lr': [0.01, 0.001], 'batch_size': [8, 2]})
    assert [(point['batch_size'], point['lr']) for point in grid(settings)] == [
        (2, 0.001), (2, 0.01), (8, 0.001), (8, 0.01),
    ]  # fmt: skip
    assert settings.seeds(3) == [1, 2, 3]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'lr': []}, '`lr` must be a list of at least one value'),
        ({'lr': 0.1}, '`lr` must be a list'),
        ({'lr': [0.1, -1.0]}, '`lr` must be a number greater than 0, got -1.0'),
        ({'batch_size': [1.5]}, '`batch_size` must be an integer of at least 1'),
        ({'batch_size': [2, 2]}, '`batch_size` names a value twice'),
        ({'max_members': 2}, 'set 3 or more'),
        ({'min_correlation': 1.5}, '`min_correlation` must be a number from 0 to 1'),
        ({'learning_rate': [0.1]}, 'unknown key `learning_rate`'),
    ],
)
def test_bad_searches_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TuningSettings, settings)


def _member(seed, force=0.1, energy=0.01, status='ok', wall_s=5.0):
    errors = {'valid': {'force_rmse': force, 'energy_rmse_per_atom': energy}}
    return {'seed': seed, 'status': status, 'wall_s': wall_s, **({'errors': errors} if status == 'ok' else {})}


def test_members_are_averaged():
    members = [_member(1, status='failed', wall_s=2.0), _member(2, 0.1, 0.02), _member(1, 0.3, 0.04)]
    row = summarise_members(members, [1, 2])
    assert row['n_trained'] == 2
    assert row['member_s'] == pytest.approx((5 + 5 + 2) / 2)  # what failed was paid, too
    assert row['force_rmse'] == pytest.approx(0.2)
    assert row['force_rmse_spread'] == pytest.approx(0.2 / 2**0.5)
    assert row['energy_rmse_per_atom'] == pytest.approx(0.03)
    alone = summarise_members(members[1:2], [2])
    assert (alone['force_rmse'], alone['force_rmse_spread']) == (0.1, None)


@pytest.mark.parametrize('members', [[], [_member(1, status='failed')], [_member(1, None)], [_member(1, float('inf'))]])
def test_members_without_errors(members):
    row = summarise_members(members, [1])
    assert (row['force_rmse'], row['force_rmse_spread']) == (None, None)


def test_the_best_point_is_good_at_both_errors():
    rows = [
        {'status': 'ok', 'force_rmse': 0.10, 'energy_rmse_per_atom': 0.08},
        {'status': 'ok', 'force_rmse': 0.12, 'energy_rmse_per_atom': 0.02},
        {'status': 'failed', 'force_rmse': 0.01, 'energy_rmse_per_atom': 0.01},
        {'status': 'ok', 'force_rmse': 0.40, 'energy_rmse_per_atom': 0.02},
    ]
    best, scores = best_point(rows)
    assert best == 1
    assert scores == [pytest.approx(4**0.5), pytest.approx(1.2**0.5), None, pytest.approx(2.0)]
    in_other_units = [{**row, 'force_rmse': 23.06 * row['force_rmse']} for row in rows]
    assert best_point(in_other_units)[1] == [score and pytest.approx(score) for score in scores]
    assert best_point(rows[2:3]) == (None, [None])


def test_sizes_against_ranks_by_hand():
    """Three members, so that each size and each sub-committee can be written out."""
    forces = np.random.default_rng(0).normal(size=(3, 20, 3))

    def spread(members):
        return np.sqrt(sum(np.var(forces[members, :, axis], axis=0, ddof=1) for axis in range(3)) / 3)

    def correlation(members):
        return np.corrcoef(rankdata(spread(members)), rankdata(spread([0, 1, 2])))[0, 1]

    two, three = committee_sizes(forces, seed=1)
    values = [correlation(pair) for pair in ([0, 1], [0, 2], [1, 2])]
    assert (two['n_members'], two['n_subsets']) == (2, 3)
    assert two['spearman'] == pytest.approx(np.mean(values))
    assert two['spearman_min'] == pytest.approx(min(values))
    assert (three['n_members'], three['n_subsets'], three['spearman']) == (3, 1, pytest.approx(1.0))


def test_larger_committees_agree_better_and_draws_repeat():
    rng = np.random.default_rng(3)
    scale = rng.lognormal(sigma=1.0, size=(1, 300, 1))  # atoms differ in how sure the model is of them
    forces = scale * rng.normal(size=(8, 300, 3))
    rows = committee_sizes(forces, seed=5)
    values = [row['spearman'] for row in rows]
    assert values == sorted(values)
    assert max(row['n_subsets'] for row in rows) == 30
    assert committee_sizes(forces, seed=5) == rows
    size = choose_size(rows, 0.95)
    assert 2 < size < 8
    assert rows[size - 2]['spearman'] > 0.95 >= rows[size - 3]['spearman']
    assert choose_size(rows[:-1], 1.0) == 7  # none passes: the largest


def test_members_that_agree_everywhere_rank_nothing():
    forces = np.zeros((3, 5, 3))
    assert [row['spearman'] for row in committee_sizes(forces, seed=1)] == [0.0, 0.0]
