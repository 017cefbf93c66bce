"""A frame gets its role once, whatever else is in the dataset and in whatever order."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given
from hypothesis import strategies as st

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.splits import MIN_VALID, draw_validation, record_roles, score

IDS = st.lists(st.integers(0, 10**6), min_size=1, max_size=60, unique=True).map(
    lambda numbers: np.array([f'f{number:031x}' for number in numbers])
)


def _frames(n: int, first: int = 0, **columns) -> Configurations:
    frames = [Atoms('Cu', positions=[[0.1 * (first + i), 0.0, 0.0]]) for i in range(n)]
    columns = {'status': 'labelled', 'role': 'train', **columns}
    return Configurations.from_atoms(frames, energy=np.full(n, -1.0), forces=np.zeros((n, 3)), **columns)


def _grow(frames: Configurations, more: Configurations, **keywords) -> Configurations:
    merged = Configurations.concatenate([frames, more])
    new = np.arange(len(merged)) >= len(frames)
    return record_roles(merged, new=new, withheld=np.zeros(len(merged), dtype=bool), **keywords)


@given(ids=IDS, seed=st.integers(0, 2**31))
def test_the_score_follows_from_identity_and_seed_alone(ids, seed):
    scores = score(ids, seed)
    assert ((scores >= 0) & (scores < 1)).all()
    digest = hashlib.sha256(f'{seed}:{ids[0]}'.encode()).hexdigest()
    assert scores[0] == pytest.approx(int(digest[:16], 16) / 2**64)
    assert score(ids[::-1], seed).tolist() == scores[::-1].tolist()


@given(ids=IDS, seed=st.integers(0, 100), fraction=st.floats(0.01, 0.99))
def test_there_are_enough_of_either(ids, seed, fraction):
    mask = draw_validation(ids, fraction=fraction, seed=seed)
    assert min(MIN_VALID, len(ids) // 2) <= mask.sum() <= len(ids) // 2
    backwards = draw_validation(ids[::-1], fraction=fraction, seed=seed)
    assert backwards[::-1].tolist() == mask.tolist()


@given(ids=IDS, more=IDS, seed=st.integers(0, 100))
def test_a_frame_drawn_by_its_score_stays_where_it_is(ids, more, seed):
    """Also without a record, as soon as there are enough validation frames."""
    both = np.unique(np.concatenate((ids, more)))
    before = dict(zip(ids.tolist(), draw_validation(ids, fraction=0.3, seed=seed).tolist(), strict=True))
    after = dict(zip(both.tolist(), draw_validation(both, fraction=0.3, seed=seed).tolist(), strict=True))
    n_low = [int((score(some, seed) < 0.3).sum()) for some in (ids, both)]
    if all(MIN_VALID <= n <= len(some) // 2 for n, some in zip(n_low, (ids, both), strict=True)):
        assert {frame: after[frame] for frame in before} == before


def test_the_share_is_that_of_the_settings():
    ids = np.array([f'f{number:031x}' for number in range(20000)])
    assert draw_validation(ids, fraction=0.2, seed=1).mean() == pytest.approx(0.2, abs=0.01)
    assert (draw_validation(ids, fraction=0.2, seed=1) != draw_validation(ids, fraction=0.2, seed=2)).any()


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6), seed=st.integers(0, 50))
def test_growing_moves_no_frame(sizes, seed):
    grown = _frames(0)
    record: dict[str, str] = {}
    for index, size in enumerate(sizes):
        grown = _grow(grown, _frames(size, first=100 * index), fraction=0.2, seed=seed)
        roles = dict(zip(grown.frame_id.tolist(), grown.role.tolist(), strict=True))
        assert {frame: roles[frame] for frame in record} == record
        record = roles
    n_valid = list(record.values()).count('validation')
    assert n_valid >= 1 or sum(sizes) < 2
    assert n_valid < max(2, sum(sizes))


def test_only_labelled_training_frames_are_drawn():
    streamed = _frames(30, role='test')
    rejected = _frames(30, first=100, status='rejected', reason='because')
    grown = _grow(_grow(streamed, rejected, fraction=0.9, seed=1), _frames(30, first=200), fraction=0.5, seed=1)
    assert set(grown.role[:30]) == {'test'}
    assert set(grown.role[30:60]) == {'train'}
    assert set(grown.role[60:]) == {'train', 'validation'}


def test_repeats_of_the_stream_are_withheld_whatever_they_were():
    grown = _grow(_frames(10), _frames(10, first=20), fraction=0.3, seed=1)
    withheld = np.zeros(20, dtype=bool)
    withheld[[np.flatnonzero(grown.role == 'validation')[0], np.flatnonzero(grown.role == 'train')[0], 19]] = True
    after = record_roles(grown, new=np.zeros(20, dtype=bool), withheld=withheld, fraction=0.3, seed=1)
    assert set(after.role[withheld]) == {'withheld'}
    assert after.role[~withheld].tolist() == grown.role[~withheld].tolist()
