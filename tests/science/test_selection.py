from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.calibration import Thresholds
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.decision import CLASSES, Decision
from aiida_mlipal.science.selection import decide
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.strategies.pick import STRATEGIES

from .builders import evaluation_of, silicon

WINDOW = Thresholds(lower=0.2, upper=2.0)
SCALE = 2.0  # of the calibration
OPTIONS = ('max_labels', 'known', 'agreed', 'stream_descriptors', 'spent_descriptors', 'costs')


def make(n: int, seed: int = 0, n_features: int = 6, **columns):
    """Return a pool of candidates, its descriptors and spreads (most of them inside the window)."""
    rng = np.random.default_rng(seed)
    columns = {'role': 'candidate', **columns}
    pool = Configurations.from_atoms(silicon(n, seed), trajectory=[f'i00-r{i % 3:03d}' for i in range(n)], **columns)
    return pool, rng.normal(size=(n, n_features)), rng.uniform(0.11, 0.99, n)


def run(pool, descriptors, spread, *, reference=None, thresholds=WINDOW, n_members=4, seed=5, **kwargs) -> Decision:
    options = {key: kwargs.pop(key) for key in OPTIONS if key in kwargs}
    kwargs = {'first_method': kwargs.get('method', 'max_det'), **kwargs}
    reference = np.zeros((0, descriptors.shape[1])) if reference is None else reference
    evaluation = evaluation_of(pool, descriptors, spread=spread, n_members=n_members)
    return decide(
        pool,
        evaluation,
        reference,
        settings=SelectionSettings(**kwargs),
        seed=seed,
        iteration=1,
        thresholds=thresholds,
        calibrated=None if thresholds is None else SCALE * evaluation.max_forces_std,
        **options,
    )


def labelled(frames: Configurations, **columns) -> Configurations:
    return frames.with_columns(status=['labelled'] * len(frames), role=['train'] * len(frames), **columns)


def roles(n: int, n_stream: int) -> list[str]:
    return ['calibration' if i % 2 else 'test' for i in range(n_stream)] + ['candidate'] * (n - n_stream)


def test_every_class_in_one_pool():
    pool, descriptors, spread = make(13)
    role = roles(13, 2)
    squeezed = pool.positions.copy()
    squeezed[2 * 6 : 2 * 6 + 2] = [[0, 0, 0], [0.3, 0, 0]]
    pool = pool.with_columns(role=role, positions=squeezed)  # frame 6 is unphysical
    spread[0] = 50  # of the stream: taken all the same
    spread[3], spread[4] = 0.01, 5.0
    descriptors[5] = descriptors[7]
    spread[5], spread[7] = 0.5, 0.6
    reference = descriptors[[8]]
    known = labelled(pool.take([9]))
    agreed = {pool.frame_id[row]: 'Both levels agree.' for row in (0, 3, 10)}
    decision = run(pool, descriptors, spread, reference=reference, n_labels=5, known=known, agreed=agreed)
    assert decision.klass[10] == 'agreed'
    assert decision.reason[10] == 'Both levels agree.'
    assert decision.klass[:10].tolist() == [
        'stream', 'stream', decision.klass[2], 'accurate', 'failed', 'duplicate', 'unphysical', decision.klass[7],
        'duplicate', 'known',
    ]  # fmt: skip
    assert set(decision.klass) == set(CLASSES)
    assert decision.counts['selected'] == 3
    assert decision.selected_ids[:2] == sorted(pool.frame_id[:2].tolist())
    assert len(decision.selected_ids) == 5
    assert '0.010' in decision.reason[3] or '0.020' in decision.reason[3]
    assert 'above the trust window (2.000)' in decision.reason[4]
    assert decision.reason[5] == f'Candidate {pool.frame_id[7]} has the same descriptors.'
    assert '0.300 Å apart' in decision.reason[6]
    assert decision.reason[8] == 'A training frame has the same descriptors.'
    assert decision.distance[8] == 0
    assert (decision.calibrated == SCALE * decision.uncertainty).all()
    assert decision.thresholds == {'lower': 0.2, 'upper': 2.0}


@pytest.mark.parametrize('method', [name for name in STRATEGIES if name != 'cost_aware'])
@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 30), n_labels=st.integers(3, 12), budget=st.none() | st.integers(0, 9)
)
def test_bookkeeping_and_permutation(method, seed, n, n_labels, budget):
    """Degenerate crystals: descriptors and spreads come from a few values, so scores are tied all over."""
    rng = np.random.default_rng(seed)
    pool, _, _ = make(n, seed)
    pool = pool.with_columns(role=roles(n, n // 4))
    descriptors = rng.integers(0, 3, (n, 2)).astype(float)
    spread = rng.choice([0.05, 0.2, 0.3, 1.5], n)
    reference = rng.integers(0, 2, (3, 2)).astype(float)
    options = {'method': method, 'n_labels': n_labels, 'max_labels': budget, 'reference': reference}
    decision = run(pool, descriptors, spread, **options)
    taken = decision.rank >= 0
    assert sorted(decision.rank[taken]) == list(range(taken.sum()))
    assert all(reason.endswith('.') for reason in decision.reason)
    assert (taken <= np.isin(decision.klass, ['stream', 'selected'])).all()
    assert (decision.rank[decision.klass == 'selected'] >= decision.n_stream).all()
    assert taken.sum() <= max(n_labels if budget is None else budget, decision.n_stream)
    if budget is not None:
        assert taken.sum() <= budget
    order = rng.permutation(n)
    other = run(pool.take(order), descriptors[order], spread[order], **options)
    for name, column in decision.columns().items():
        assert column[order].tobytes() == other.columns()[name].tobytes(), name


@pytest.mark.parametrize('role', ['train', 'test'])
def test_random_until_there_is_something_to_calibrate_on(role):
    """A frame that the model broke is farthest from all others, and first for `max_det`; not for random picks."""
    pool, descriptors, spread = make(40)
    descriptors[7] *= 100
    known = labelled(Configurations.from_atoms(silicon(3, seed=9)))
    first = known.with_columns(role=[role] * 3)
    rejected = known.with_columns(role=['calibration'] * 3, status=['rejected'] * 3)
    options = {'thresholds': None, 'n_labels': 6, 'random_picks': 0}
    drawn = run(pool, descriptors, spread, method='random', known=first, **options)
    for frames in (first, rejected):
        decision = run(pool, descriptors, spread, known=frames, first_method='random', **options)
        assert decision.selected_ids == drawn.selected_ids
        assert decision.method == 'random'
        assert decision.settings['method'] == 'max_det'
        assert 'by `random` (`first_method`), not by `max_det`' in decision.notes[0]
    calibrated = known.with_columns(role=['calibration', role, role])
    later = run(pool, descriptors, spread, known=calibrated, first_method='random', **options)
    assert later.method == 'max_det'
    assert later.rank[7] == 0
    assert not later.notes


def test_no_window_at_first():
    pool, descriptors, spread = make(10)
    decision = run(pool, descriptors, spread * 100, thresholds=None, n_labels=6)
    counts = {**dict.fromkeys(CLASSES, 0), 'selected': 6, 'candidate': 4}
    del counts['agreed']  # there was no prescreen
    assert decision.counts == counts
    assert decision.thresholds == {}
    assert (decision.calibrated == decision.uncertainty).all()


def test_stream_is_taken_whatever_the_model_thinks():
    pool, descriptors, _ = make(10)
    pool = pool.with_columns(role=roles(10, 6))
    decision = run(pool, descriptors, np.full(10, 1e-6), n_labels=4)
    assert decision.counts['stream'] == 6
    assert decision.n_selected == 0
    assert decision.counts['accurate'] == 4


def test_budget_takes_the_stream_first():
    pool, descriptors, spread = make(10)
    pool = pool.with_columns(role=roles(10, 4))
    assert run(pool, descriptors, spread, max_labels=3).n_stream == 3
    assert run(pool, descriptors, spread, max_labels=3).counts['stream'] == 4
    decision = run(pool, descriptors, spread, max_labels=6)
    assert (decision.n_stream, decision.n_selected) == (4, 2)
    assert len(run(pool, descriptors, spread, max_labels=0).selected_ids) == 0


def test_a_training_frame_must_not_repeat_a_test_frame():
    pool, descriptors, spread = make(6)
    pool = pool.with_columns(role=roles(6, 2))
    descriptors[4] = descriptors[0]
    decision = run(pool, descriptors, spread, n_labels=10)
    assert decision.klass[4] == 'duplicate'
    assert 'must stay unseen' in decision.reason[4]


def test_near_duplicates_fall_below_a_fraction_of_the_usual_distance():
    pool, descriptors, spread = make(40, n_features=2)
    descriptors[1] = descriptors[0] + 1e-4
    near = run(pool, descriptors, spread, n_labels=40, duplicate_distance=0.01)
    assert sorted(near.klass[:2].tolist()) == ['duplicate', 'selected']
    assert near.klass[np.argmax(spread[:2])] == 'selected'  # the more uncertain stays
    assert run(pool, descriptors, spread, n_labels=40, duplicate_distance=0.0).counts['duplicate'] == 0


def test_the_same_frame_twice_is_labelled_once():
    pool, descriptors, spread = make(4)
    pool = Configurations.concatenate([pool, pool.take([0]).with_columns(role=['test'])])
    descriptors, spread = np.vstack((descriptors, descriptors[:1])), np.append(spread, spread[0])
    decision = run(pool, descriptors, spread)
    assert decision.klass[4] == 'stream'
    assert decision.klass[0] == 'known'
    assert len(set(decision.selected_ids)) == len(decision.selected_ids) == 4


def test_what_the_upper_bound_rejects_does_not_starve():
    pool, descriptors, spread = make(6)
    pool = pool.with_columns(origin=['last_safe', 'first_unsafe', 'nvt', 'nvt', 'nvt', 'nvt'])
    spread[:] = 10
    assert run(pool, descriptors, spread).klass.tolist() == ['selected'] * 2 + ['failed'] * 4


def test_predictions_that_are_not_finite():
    pool, descriptors, spread = make(6)
    descriptors[1], spread[2] = np.nan, np.nan
    decision = run(pool, descriptors, spread)
    assert decision.klass[[1, 2]].tolist() == ['failed'] * 2
    assert decision.reason[1] == 'What the model says of it is not finite: descriptors.'
    assert decision.reason[2] == 'What the model says of it is not finite: uncertainty.'
    assert decision.n_selected == 4


@settings(deadline=None, max_examples=15)
@given(
    broken=st.sets(st.integers(0, 11)), method=st.sampled_from([name for name in STRATEGIES if name != 'cost_aware'])
)
def test_frames_without_a_finite_uncertainty_fail_with_a_reason(broken, method):
    """Whatever the method, with or without a window; picks are made from the others."""
    pool, descriptors, spread = make(12)
    rows = sorted(broken)
    spread[rows] = np.nan
    for thresholds in (WINDOW, None):
        if len(rows) == 12 and thresholds is None:
            continue  # a model without any uncertainty, see `test_single_model`
        decision = run(pool, descriptors, spread, thresholds=thresholds, n_labels=6, method=method)
        assert (decision.klass[rows] == 'failed').all()
        assert set(decision.reason[rows]) <= {'What the model says of it is not finite: uncertainty.'}
        assert 'failed' not in np.delete(decision.klass, rows)
        assert decision.n_selected == min(6, 12 - len(rows))


def test_single_model():
    pool, descriptors, _ = make(6)
    for method in ('max_det', 'farthest_point', 'random'):
        decision = run(pool, descriptors, None, thresholds=None, n_members=1, method=method, n_labels=4)
        assert decision.n_selected == 4
        assert decision.quantiles['median'] is None
    with pytest.raises(ValueError, match='committee of 1 that has none: train 2 or more members'):
        run(pool, descriptors, None, thresholds=None, n_members=1, method='top_uncertainty')
    with pytest.raises(ValueError, match='a trust window ranks frames by the spread of a committee'):
        run(pool, descriptors, None, n_members=1)
    none = evaluation_of(pool, descriptors, n_members=1)
    options = {'settings': SelectionSettings(), 'seed': 1, 'iteration': 1, 'thresholds': WINDOW}
    with pytest.raises(ValueError, match='a trust window needs `calibrated`'):
        decide(pool, none, descriptors[:0], **options)


def test_one_model_with_an_uncertainty_selects_as_a_committee_does():
    pool, descriptors, spread = make(8)
    for method in ('max_det', 'top_uncertainty'):
        one, four = (run(pool, descriptors, spread, n_members=n, method=method, n_labels=4) for n in (1, 4))
        assert list(one.selected_ids) == list(four.selected_ids) != []
        np.testing.assert_array_equal(one.calibrated, four.calibrated)


def test_top_uncertainty_takes_the_largest():
    pool, descriptors, spread = make(20)
    decision = run(pool, descriptors, spread, method='top_uncertainty', n_labels=5)
    assert decision.selected_ids == pool.frame_id[np.argsort(-spread)[:5]].tolist()


def test_random_depends_on_the_seed_alone():
    pool, descriptors, spread = make(40)
    picks = [run(pool, descriptors, spread, method='random', n_labels=5, seed=seed).selected_ids for seed in (1, 1, 2)]
    assert picks[0] == picks[1] != picks[2]


def test_empty_pool():
    pool, descriptors, spread = make(3)
    decision = run(pool.take([]), descriptors[:0], spread[:0])
    assert (len(decision), decision.selected_ids, set(decision.counts.values())) == (0, [], {0})


def test_large_pool_is_quick():
    import time

    pool, descriptors, spread = make(1000, n_features=64)
    start = time.process_time()
    decision = run(pool, descriptors, spread, reference=descriptors[:200] + 0.1, n_labels=100)
    assert decision.n_selected == 100
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'method': 'maxdet'}, r'unknown selection method `maxdet`. Did you mean `max_det`\? Valid: cost_aware, '),
        ({'n_labels': 0}, '`n_labels` must be an integer of at least 1, got 0'),
        ({'n_labels': 2}, 'set `n_labels` to 3 or more'),
        ({'random_share': 1.0}, '`random_share` must be a number from 0 to 0.9'),
        ({'duplicate_distance': -1}, '`duplicate_distance`'),
        ({'upper_factor': 1}, '`upper_factor` must be a number greater than 1'),
        (
            {'uncertainty': 'force_max'},
            r'measure of uncertainty `force_max`. Did you mean `forces_max`\? Valid: energy_per_atom, ',
        ),
        ({'calibration_decay': 0}, '`calibration_decay` must be a number from 0.01 to 1'),
        ({'random_share': 0.6, 'random_picks': 0.5}, 'parts of the same labels and add up to more than 1'),
        ({'random_picks': -0.1}, '`random_picks` must be a number from 0 to 1'),
        ({'quotas': {'trajektory': 0.5}}, r'unknown quota `trajektory`. Did you mean `trajectory`\?'),
        ({'quotas': {'plan': 1.5}}, '`quotas.plan` must be a number from 0 to 1'),
        ({'quotas': {'plan': 0}}, '`quotas.plan` is 0, so that nothing could be taken'),
        ({'quotas': {'plan': {'a': 0.7, 'b': 0.6}}}, '`quotas.plan` adds up to 1.3, but shares of one whole'),
        ({'lower_floor': 2}, '`lower_floor` must be a number from 0 to 1'),
        ({'n_label': 3}, r'unknown key `n_label`. Did you mean `n_labels`\?'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(SelectionSettings, settings)


def test_share_of_the_stream():
    assert [SelectionSettings(n_labels=n).n_stream for n in (3, 10, 20, 100)] == [2, 2, 4, 20]


def test_candidates_that_repeat_an_earlier_stream_are_closed():
    pool, descriptors, spread = make(10)
    earlier = np.random.default_rng(7).normal(size=(4, descriptors.shape[1]))
    descriptors[3] = earlier[2] + 1e-7
    decision = run(pool, descriptors, spread, reference=descriptors[[0]] + 5, stream_descriptors=earlier, n_labels=8)
    assert decision.klass[3] == 'duplicate'
    assert 'earlier random stream' in decision.reason[3]
    assert (decision.klass == 'duplicate').sum() == 1


def test_a_stream_frame_that_breaks_the_model_does_not_break_the_selection():
    pool, descriptors, spread = make(10)
    earlier = np.random.default_rng(7).normal(size=(4, descriptors.shape[1]))
    sound = run(pool, descriptors, spread, reference=descriptors[[0]] + 5, stream_descriptors=earlier, n_labels=8)
    broken = np.vstack((earlier, np.full((1, descriptors.shape[1]), np.nan)))
    decision = run(pool, descriptors, spread, reference=descriptors[[0]] + 5, stream_descriptors=broken, n_labels=8)
    np.testing.assert_array_equal(decision.klass, sound.klass)
    np.testing.assert_array_equal(decision.rank, sound.rank)


def test_what_was_labelled_before_is_not_labelled_again():
    """By identity, whatever became of it; by descriptors, rejected and withheld frames too."""
    pool, descriptors, spread = make(8)
    earlier = pool.take([0, 1])
    known = labelled(earlier, reason=['', 'no SCF']).with_columns(status=['labelled', 'rejected'])
    spent = descriptors[[2]] + 1e-7
    decision = run(pool, descriptors, spread, known=known, spent_descriptors=spent, n_labels=8)
    assert decision.klass[:3].tolist() == ['known', 'known', 'duplicate']
    assert decision.reason[:2].tolist() == [f'It was labelled before ({s}).' for s in ('labelled', 'rejected')]
    assert decision.reason[2] == 'A frame whose label was rejected, or that is withheld, has the same descriptors.'


def test_forces_that_no_label_would_keep():
    pool, descriptors, spread = make(4)
    forces = np.zeros((8, 3))
    forces[3] = [0, -120, 0]
    evaluation = evaluation_of(pool, descriptors, spread=spread, forces=forces)
    decision = decide(
        pool, evaluation, descriptors[:0], settings=SelectionSettings(), seed=1, iteration=0, thresholds=None
    )
    assert decision.klass.tolist() == ['selected', 'unphysical', 'selected', 'selected']
    assert decision.reason[1] == (
        'It is not worth a label: its largest predicted force, 120.0 eV/Å, is above 100 eV/Å.'
    )


def test_the_window_opens_if_too_few_are_in_it():
    """As far as needed, as far as the floor, and not at all for frames that are below that anyway."""
    pool, descriptors, _ = make(10)
    expected = np.array([0.30, 0.25, 0.19, 0.18, 0.17, 0.16, 0.09, 0.08, 0.07, 9.0])
    kept = {'n_labels': 4, 'random_picks': 0.0}
    decision = run(pool, descriptors, expected / SCALE, **kept)
    assert decision.thresholds == {'lower': pytest.approx(0.18), 'upper': 2.0, 'lower_calibrated': 0.2}
    assert (decision.klass == 'selected').nonzero()[0].tolist() == [0, 1, 2, 3]
    assert decision.notes == [
        'The lower end of the trust window fell from 0.200 to 0.180 eV/Å: only 2 candidates were above it, '
        'for 4 labels.'
    ]
    decision = run(pool, descriptors, expected / SCALE, n_labels=9)
    assert decision.thresholds['lower'] == pytest.approx(0.1)  # the floor: half of it
    assert decision.klass.tolist() == ['selected'] * 6 + ['accurate'] * 3 + ['failed']
    decision = run(pool, descriptors, expected / SCALE, n_labels=4, lower_floor=1)
    assert decision.thresholds == {'lower': 0.2, 'upper': 2.0}
    assert decision.counts['selected'] == 2
    expected[2:] = 0.05
    assert run(pool, descriptors, expected / SCALE, n_labels=4).thresholds == {'lower': 0.2, 'upper': 2.0}


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 1.0), method=st.sampled_from(['max_det', 'lcmd', 'random']))
def test_quotas_hold(seed, share, method):
    rng = np.random.default_rng(seed)
    pool, descriptors, spread = make(30, seed)
    pool = pool.with_columns(origin=rng.choice(['nvt', 'npt', 'shear'], 30))
    wanted = {'plan': share, 'trajectory': {'i00-r000': 0.25}}
    decision = run(pool, descriptors, spread, quotas=wanted, n_labels=12, method=method, thresholds=None)
    taken = decision.klass == 'selected'
    limit = max(1, int(np.ceil(round(share * 12, 9))))
    assert all((taken & (pool.origin == plan)).sum() <= limit for plan in ('nvt', 'npt', 'shear'))
    assert (taken & (pool.trajectory == 'i00-r000')).sum() <= 3
    assert (taken & (pool.trajectory != 'i00-r000')).sum() <= 9
    spent = [row for row in np.flatnonzero(decision.klass == 'candidate') if 'quota' in decision.reason[row]]
    assert spent or taken.sum() == 12
    if taken.sum() < 12:
        assert decision.notes[0].startswith(f'{12 - taken.sum()} of 12 labels were not spent, because quotas were: ')


def test_some_are_always_drawn_at_random():
    pool, descriptors, spread = make(40)
    decision = run(pool, descriptors, spread, n_labels=10, random_picks=0.2, method='top_uncertainty')
    drawn = [row for row in range(40) if 'drawn at random from the candidates, as 20% of' in decision.reason[row]]
    assert sorted(decision.rank[drawn].tolist()) == [0, 1]
    others = np.setdiff1d(np.flatnonzero(decision.klass == 'selected'), drawn)
    rest = np.setdiff1d(np.arange(40), drawn)
    assert set(others.tolist()) == set(rest[np.argsort(-spread[rest])[:8]].tolist())
    again = run(pool, descriptors, spread, n_labels=10, random_picks=0.2, method='max_det')
    assert (again.rank[drawn] == decision.rank[drawn]).all()  # whatever the method


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 8), more=st.integers(2, 9), method=st.sampled_from(STRATEGIES))
def test_a_small_pool_is_taken_whole_and_says_so(n, more, method):
    decision = run(*make(n), n_labels=n + more, method=method, costs=np.ones(n))
    assert decision.n_selected == n
    assert decision.notes == [f'All {n} candidates were taken: {n + more} labels could have been spent.']


def test_costs_are_asked_for():
    pool, descriptors, spread = make(6)
    with pytest.raises(ValueError, match='the method `cost_aware` needs `costs`'):
        run(pool, descriptors, spread, method='cost_aware')
    costs = np.array([1.0, 1, 1, 500, 500, 500])
    kept = {'method': 'cost_aware', 'n_labels': 3, 'random_picks': 0.0}
    decision = run(pool, descriptors, spread, costs=costs, thresholds=None, **kept)
    assert decision.klass.tolist() == ['selected'] * 3 + ['candidate'] * 3


def test_all_settings_are_written_down():
    options = {'first_method': 'lcmd', 'n_labels': 4, 'quotas': {'plan': 0.5}}
    assert from_dict(SelectionSettings, run(*make(4), **options).settings) == SelectionSettings(**options)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(STRATEGIES), n_labels=st.integers(4, 25))
def test_duplicates_are_never_both_taken(seed, method, n_labels):
    """Whatever the strategy, and random picks included; nor is a repeat of a training or a stream frame."""
    rng = np.random.default_rng(seed)
    pool, descriptors, spread = make(40, seed)
    pool = pool.with_columns(role=roles(40, 3))
    copies = rng.integers(0, 12, 40)
    descriptors = descriptors[copies] + 1e-7 * rng.normal(size=descriptors.shape)
    reference = descriptors[copies == 0][:1]
    decision = run(
        pool, descriptors, spread, reference=reference, method=method, n_labels=n_labels, random_picks=0.3,
        costs=rng.uniform(1, 9, 40), thresholds=None,
    )  # fmt: skip
    picked = copies[decision.klass == 'selected'].tolist()
    assert len(picked) == len(set(picked))
    assert not set(picked) & set(copies[decision.klass == 'stream'].tolist())
    assert not len(reference) or 0 not in picked
