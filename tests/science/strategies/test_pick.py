"""Every strategy against its definition written out as a loop, and what all of them have in common."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.descriptors import on_grid
from aiida_mlipal.science.duplicates import duplicate_scale
from aiida_mlipal.science.strategies.determinant import RIDGE
from aiida_mlipal.science.strategies.pick import STRATEGIES, Candidates, pick
from aiida_mlipal.science.strategies.quotas import make_quota

quick = settings(deadline=None, max_examples=20)
seeds, sizes = st.integers(0, 10**6), st.integers(1, 14)


def names(n: int) -> np.ndarray:
    return np.array([f'f{index:06d}' for index in range(n)])


def candidates(seed: int, n: int, n_reference: int = 3, n_features: int = 4) -> Candidates:
    rng = np.random.default_rng(seed)
    table, reference = on_grid(rng.normal(size=(n, n_features)), rng.normal(size=(n_reference, n_features)))
    uncertainty, cost = rng.uniform(0.1, 1, n), rng.uniform(1, 50, n)
    return Candidates(frame_ids=names(n), table=table, reference=reference, uncertainty=uncertainty, cost=cost)


def take(given: Candidates, rows) -> Candidates:
    return Candidates(
        frame_ids=given.frame_ids[rows], table=given.table[rows], reference=given.reference,
        uncertainty=given.uncertainty[rows], cost=given.cost[rows],
    )  # fmt: skip


def log_det(rows) -> float:
    """Of the kernel matrix over ``rows``, written out in full."""
    rows = np.asarray(rows)
    return float(np.linalg.slogdet(np.eye(len(rows)) + rows @ rows.T / RIDGE)[1]) if len(rows) else 0.0


# -- each strategy as a loop over all candidates: its gains, given what is known ---------------------------------------


def max_det(given, picked):
    known = [*given.reference, *given.table[picked]]
    return np.array([log_det([*known, row]) for row in given.table]) - log_det(known)


def weighted_max_det(given, picked):
    """The kernel of the candidates given the reference, with uncertainties on both sides."""
    reference = given.reference
    prior = np.linalg.inv(RIDGE * np.eye(reference.shape[1]) + reference.T @ reference)
    weight = given.uncertainty / np.median(given.uncertainty)
    kernel = np.eye(len(weight)) + weight[:, None] * (given.table @ prior @ given.table.T) * weight

    def log(rows):
        return np.linalg.slogdet(kernel[np.ix_(rows, rows)])[1] if rows else 0.0

    taken = set(picked)
    return np.array([np.nan if row in taken else log([*picked, row]) - log(picked) for row in range(len(weight))])


def cost_aware(given, picked):
    return weighted_max_det(given, picked) / (given.cost / np.median(given.cost))


def farthest_point(given, picked):
    known = [*given.reference, *given.table[picked]] or [np.zeros(given.table.shape[1])]
    return np.array([min(np.linalg.norm(row - other) for other in known) for row in given.table])


def lcmd(given, picked):
    """Minus infinity outside the largest cluster."""
    anchors = list(given.reference) if len(given.reference) else [np.zeros(given.table.shape[1])]
    centres = np.array([*anchors, *given.table[picked]])
    distances = np.linalg.norm(given.table[:, None] - centres, axis=2)
    owner, nearest = distances.argmin(axis=1), distances.min(axis=1)
    size = [(nearest[owner == centre] ** 2).sum() for centre in range(len(centres))]
    return np.where(owner == np.argmax(size), nearest, -np.inf)


def entropy_gain(given, picked):
    known = np.array([*given.reference, *given.table[picked]] if len(given.reference) else
                     [np.zeros(given.table.shape[1]), *given.table[picked]])  # fmt: skip
    width = duplicate_scale(given.table, given.reference, np.arange(len(given))) or 1.0
    squares = ((given.table[:, None] - known) ** 2).sum(axis=2)
    with np.errstate(divide='ignore'):
        return -np.log(np.exp(-squares / (2 * width**2)).sum(axis=1))


def top_uncertainty(given, picked):
    return given.uncertainty


LOOPS = [max_det, weighted_max_det, cost_aware, farthest_point, lcmd, entropy_gain, top_uncertainty]


@pytest.mark.parametrize('loop', LOOPS, ids=lambda loop: loop.__name__)
@quick
@given(seed=seeds, n=sizes, n_reference=st.integers(0, 5), k=st.integers(0, 8))
def test_every_pick_is_the_best_of_a_loop(loop, seed, n, n_reference, k):
    given = candidates(seed, n, n_reference)
    picks = pick(loop.__name__, given, k, 0)
    order = picks.order.tolist()
    assert len(order) == len(set(order)) == min(k, n)
    for place, row in enumerate(order):
        gains = loop(given, order[:place])
        free = [other for other in range(n) if other not in order[:place]]
        assert gains[row] >= max(gains[free]) - 2e-5
        assert picks.gain[row] == pytest.approx(gains[row], rel=1e-5, abs=2e-5)
    rest = [row for row in range(n) if row not in order]
    gains = loop(given, order)
    for row in rest:
        if np.isfinite(gains[row]):
            assert picks.gain[row] == pytest.approx(gains[row], rel=1e-5, abs=2e-5)


@quick
@given(seed=seeds, n=st.integers(2, 9), n_reference=st.integers(0, 3), k=st.integers(1, 4))
def test_greedy_determinants_against_all_sets(seed, n, n_reference, k):
    """Exact D-optimal sets by brute force: greedy reaches at least 1 - 1/e of the best gain, and is exact for k = 1."""
    given = candidates(seed, n, n_reference)
    base = log_det(given.reference)

    def gain(rows) -> float:
        return log_det([*given.reference, *given.table[list(rows)]]) - base

    k = min(k, n)
    best = max(gain(rows) for rows in combinations(range(n), k))
    reached = gain(pick('max_det', given, k, 0).order)
    assert (1 - 1 / np.e) * best - 1e-6 <= reached <= best + 1e-6
    assert gain(pick('max_det', given, 1, 0).order) == pytest.approx(max(gain([row]) for row in range(n)), abs=1e-6)


@quick
@given(seed=seeds, lengths=st.permutations([0.1, 0.2, 0.4, 0.8, 1.6]), k=st.integers(1, 5))
def test_greedy_determinant_is_exact_for_orthogonal_rows(seed, lengths, k):
    """Without overlap gains add up, so the longest rows are the D-optimal set."""
    (table,) = on_grid(np.diag(lengths))
    given = Candidates(frame_ids=names(5), table=table, reference=np.zeros((0, 5)))
    assert set(pick('max_det', given, k, seed).order.tolist()) == set(np.argsort(lengths)[::-1][:k].tolist())


@quick
@given(seed=seeds, n=st.integers(3, 20))
def test_farthest_points_cover_within_twice_the_best_radius(seed, n):
    """Gonzalez' bound, against all sets."""
    given = candidates(seed, min(n, 9), 0, 2)
    distances = np.linalg.norm(given.table[:, None] - given.table, axis=2)

    def radius(rows) -> float:
        return float(distances[:, list(rows)].min(axis=1).max())

    best = min(radius(rows) for rows in combinations(range(len(given)), 3))
    assert radius(pick('farthest_point', given, 3, 0).order) <= 2 * best + 1e-9


# -- what all have in common -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('strategy', STRATEGIES)
@quick
@given(seed=seeds, n=st.integers(1, 40), k=st.integers(0, 12), n_random=st.integers(0, 3), share=st.floats(0.1, 1))
def test_the_order_of_candidates_does_not_matter_and_quotas_hold(strategy, seed, n, k, n_random, share):
    """Degenerate crystals: descriptors, uncertainties and costs come from a few values, so scores are tied all over."""
    rng = np.random.default_rng(seed)
    table, reference = on_grid(rng.integers(-1, 2, (n, 3)) / 2, rng.integers(-1, 2, (4, 3)) / 2)
    given = Candidates(
        frame_ids=names(n), table=table, reference=reference, uncertainty=rng.choice([0.2, 0.4], n),
        cost=rng.choice([1.0, 8.0], n),
    )  # fmt: skip
    groups = rng.choice(['a', 'b', 'c'], n)
    order = rng.permutation(n)
    quotas = [make_quota('plan', groups, share, k)]
    first = pick(strategy, given, k, [seed, 1], n_random=n_random, quotas=quotas)
    shuffled = [make_quota('plan', groups[order], share, k)]
    second = pick(strategy, take(given, order), k, [seed, 1], n_random=n_random, quotas=shuffled)
    assert given.frame_ids[first.order].tolist() == given.frame_ids[order][second.order].tolist()
    assert first.gain[order].tobytes() == second.gain.tobytes()
    counts = {group: int((groups[first.order] == group).sum()) for group in 'abc'}
    limit = max(1, int(np.ceil(round(share * k, 9))))
    assert max(counts.values()) <= limit
    # Nothing is left that could have been taken.
    assert len(first.order) == k or all(counts[group] in (limit, (groups == group).sum()) for group in 'abc')
    assert first.n_random <= min(n_random, k)


def test_random_picks_come_first_and_the_strategy_knows_of_them():
    given = candidates(1, 200)
    picks = pick('max_det', given, 10, 5, n_random=3)
    assert picks.n_random == 3
    assert picks.order[:3].tolist() == pick('random', given, 3, 5).order.tolist()
    gains = max_det(given, picks.order[:3].tolist())
    gains[picks.order[:3]] = -np.inf
    assert picks.order[3] == np.argmax(gains)


def test_random_is_uniform():
    given = candidates(0, 20)
    counts = np.bincount(np.concatenate([pick('random', given, 5, seed).order for seed in range(400)]), minlength=20)
    assert ((counts - 100) ** 2 / 100).sum() < 40  # chi squared with 19 degrees of freedom: p = 0.003


def test_max_det_avoids_what_the_training_set_covers():
    table, reference = on_grid(np.array([[1.0, 0, 0], [0, 0.4, 0], [0, 0, 0.3]]), np.array([[1.0, 0, 0]] * 5))
    given = Candidates(frame_ids=names(3), table=table, reference=reference)
    assert pick('max_det', given, 2, 0).order.tolist() == [1, 2]


def test_costs_count():
    """Of two equal frames the cheaper one is taken."""
    (table,) = on_grid(np.array([[0.5, 0], [0.5, 0], [0, 0.5]]))
    given = Candidates(
        frame_ids=names(3), table=table, reference=np.zeros((0, 2)), uncertainty=np.ones(3), cost=np.array([8.0, 2, 4])
    )
    assert pick('cost_aware', given, 2, 0).order.tolist() == [1, 2]


@pytest.mark.parametrize(
    ('strategy', 'changes', 'message'),
    [
        ('maxdet', {}, r'unknown strategy `maxdet`. Did you mean `max_det`\? Valid: cost_aware, entropy_gain, '),
        ('top_uncertainty', {'uncertainty': None}, 'needs a finite uncertainty of every candidate'),
        ('cost_aware', {'cost': None}, 'needs a positive predicted cost of every candidate'),
    ],
)
def test_bad_input(strategy, changes, message):
    given = candidates(0, 4)
    columns = {name: getattr(given, name) for name in ('frame_ids', 'table', 'reference', 'uncertainty', 'cost')}
    with pytest.raises(ValueError, match=message):
        pick(strategy, Candidates(**{**columns, **changes}), 2, 0)
