"""Tests of :mod:`aiida_mlipal.science.columns` with columns of their own, against plain Python lists."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aiida_mlipal.science.columns import Columns, canonical, column_names, pack, per_atom, per_frame, unpack

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True, eq=False, kw_only=True)
class Charges(Columns):
    """One column of each kind."""

    charges: NDArray[np.float64] = field(metadata=per_atom('<f8'))
    dipole: NDArray[np.float64] = field(metadata=per_frame('<f8', 3, default=np.nan))
    members: NDArray[np.float64] = field(metadata=per_frame('<f8', None))
    note: NDArray[np.str_] = field(metadata=per_frame('str', default=''))


numbers = st.floats(width=64)  # NaN of any bit pattern, infinities and -0.0 included
notes = st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']), max_size=5)
#: One frame: a note, three numbers of a dipole, two members, charges of its atoms (also none).
frame = st.tuples(
    notes, st.tuples(numbers, numbers, numbers), st.tuples(numbers, numbers), st.lists(numbers, max_size=4)
)
frames = st.lists(frame, max_size=6)


def build(rows: list[Any]) -> Charges:
    return Charges(
        frame_id=[f'f{index}' for index in range(len(rows))],
        n_atoms=[len(charges) for *_, charges in rows],
        charges=[charge for *_, charges in rows for charge in charges],
        dipole=[dipole for _, dipole, _, _ in rows],
        members=np.array([members for _, _, members, _ in rows]).reshape(-1, 2),
        note=[note for note, *_ in rows],
    )


def as_rows(columns: Charges) -> str:
    """Return the frames as Python writes them, which knows one NaN and tells 0.0 from -0.0."""
    offsets = columns.offsets.tolist()
    return repr(
        [
            (note, tuple(dipole), tuple(members), columns.charges[start:stop].tolist())
            for note, dipole, members, start, stop in zip(
                columns.note.tolist(), columns.dipole.tolist(), columns.members.tolist(), offsets[:-1], offsets[1:],
                strict=True,
            )
        ]
    )  # fmt: skip


@quick
@given(frames, st.data())
def test_take(rows, data):
    columns = build(rows)
    assert as_rows(columns) == repr(rows)
    assert columns.offsets.tolist() == [0, *accumulate(len(charges) for *_, charges in rows)]
    indices = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=8) if rows else st.just([]))
    assert as_rows(columns.take(indices)) == repr([rows[index] for index in indices])
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    assert columns.take(mask) == columns.take(np.flatnonzero(mask))
    with pytest.raises(IndexError):
        columns.take([len(rows)])


@quick
@given(st.lists(frames, max_size=3))
def test_concatenate(parts):
    assert as_rows(Charges.concatenate([build(part) for part in parts])) == repr([*chain(*parts)])


@quick
@given(frames)
def test_save_and_load(tmp_path, rows):
    columns = build(rows)
    columns.save(tmp_path / 'a.npz')
    loaded = Charges.load(tmp_path / 'a.npz')
    assert loaded == columns
    assert pack(loaded.columns()) == (tmp_path / 'a.npz').read_bytes()


@quick
@given(frames, frames)
def test_equal_if_the_frames_are(first, second):
    one, other = build(first), build(second)
    assert one == build(first)
    assert (one == other) == (repr(first) == repr(second)) == (pack(one.columns()) == pack(other.columns()))
    assert one != first


def test_equal_content_has_equal_bytes():
    """Whatever the bits of NaN, the memory layout, the width of the text, and the time."""
    values, other = np.array([[1.0, np.nan], [0.5, 2.0]]), np.asfortranarray([[1.0, -np.nan], [0.5, 2.0]])
    assert values.tobytes() != other.tobytes()
    assert canonical(values, '<f8').tobytes() == canonical(other, '<f8').tobytes()
    wide = np.array(['ä日', 'x' * 80])[:1]
    assert canonical(wide, 'str').dtype == canonical(['ä日'], 'str').dtype == np.dtype('<U2')
    assert canonical(np.array([], dtype='<U9'), 'str').dtype == canonical([], 'str').dtype
    before = pack({'note': wide})
    time.sleep(2.1)  # the clock of a zip file ticks every two seconds
    assert pack({'note': wide}) == before


def test_read_some_columns():
    content = pack(build([('a', (1, 2, 3), (4, 5), [6.0])]).columns())
    assert column_names(content) == ['frame_id', 'n_atoms', 'charges', 'dipole', 'members', 'note']
    assert unpack(content, ['members'])['members'].tolist() == [[4, 5]]
    with pytest.raises(KeyError, match='dipoles'):
        unpack(content, ['dipoles'])


def test_missing_columns_take_their_default():
    columns = build([('a', (1, 2, 3), (4, 5), [6.0])]).columns()
    del columns['dipole']
    assert np.isnan(Charges.from_columns(columns).dipole).tolist() == [[True] * 3]
    del columns['members']
    with pytest.raises(TypeError, match='members'):
        Charges.from_columns(columns)


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('charges', [1.0], r'`charges` must have shape \(2,\), got \(1,\)'),
        ('dipole', np.zeros((1, 2)), r'`dipole` must have shape \(1, 3\), got \(1, 2\)'),
        ('members', [1.0], r'`members` must have shape \(1, any\), got \(1,\)'),
        ('note', [], r'`note` must have shape \(1,\), got \(0,\)'),
    ],
)
def test_wrong_shapes(name, value, message):
    with pytest.raises(ValueError, match=message):
        build([('a', (1, 2, 3), (4, 5), [6.0, 7.0])]).with_columns(**{name: value})


def test_columns_cannot_be_changed():
    columns = build([('a', (1, 2, 3), (4, 5), [6.0])])
    for array in (*columns.columns().values(), columns.offsets):
        with pytest.raises(ValueError, match='read-only'):
            array[...] = array
    with pytest.raises(TypeError, match='unhashable'):
        hash(columns)


def test_index_of():
    columns = build([('a', (1, 2, 3), (4, 5), [])] * 3)
    assert columns.index_of(['f2', 'f0']).tolist() == [2, 0]
    with pytest.raises(KeyError, match="'f3' is not among these 3 frames"):
        columns.index_of(['f0', 'f3'])
