from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.level_of_theory import canonical, difference, digest, require_equal

BASE = {'code': 'pw', 'functional': 'PBE', 'system': {'ecutwfc': 30.0, 'nspin': 1}, 'pseudos': {'Si': 'abc'}}

keys = st.sampled_from(['a', 'b', 'ecutwfc', 'ä'])
leaves = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
nested = st.dictionaries(keys, leaves | st.lists(leaves, max_size=3) | keys, max_size=3)
descriptions = st.dictionaries(keys, nested | leaves, max_size=4)


@settings(deadline=None, max_examples=40)
@given(descriptions)
def test_key_order_and_a_trip_through_json_do_not_matter(description):
    shuffled = dict(reversed(list(description.items())))
    assert digest(description) == digest(shuffled) == digest(json.loads(json.dumps(canonical(description))))
    assert difference(description, shuffled) == []


def test_integer_and_float_are_one_but_true_and_text_are_not():
    assert digest({'x': 30}) == digest({'x': 30.0}) == digest({'x': np.float64(30)})
    assert len({digest({'x': value}) for value in (1, True, '1', '1.0', None)}) == 5
    assert digest({'x': -0.0}) == digest({'x': 0.0})


def test_every_digit_counts():
    assert digest({'x': 0.1}) != digest({'x': np.nextafter(0.1, 1)})


def test_digest_is_sixteen_hex_digits():
    assert len(digest(BASE)) == 16
    int(digest(BASE), 16)


def test_difference_reads_line_by_line():
    other = {**BASE, 'system': {'ecutwfc': 40.0}, 'kpoints': [4, 4, 4]}
    assert difference(BASE, other) == [
        'kpoints: (absent) -> [4, 4, 4]',
        'system.ecutwfc: 30.0 -> 40.0',
        'system.nspin: 1 -> (absent)',
    ]


def test_require_equal():
    require_equal(BASE, dict(BASE), 'a and b')
    with pytest.raises(ValueError, match=r'a and b have different levels of theory:\n  functional: PBE -> PBEsol'):
        require_equal(BASE, {**BASE, 'functional': 'PBEsol'}, 'a and b')


def test_refuses_what_json_cannot_hold():
    with pytest.raises(ValueError, match=r'`system\.ecutwfc` .* nan'):
        canonical({'system': {'ecutwfc': float('nan')}})
    with pytest.raises(ValueError, match=r'`a\[1\]` .* set'):
        canonical({'a': [1, {2}]})
