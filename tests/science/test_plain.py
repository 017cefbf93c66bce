from __future__ import annotations

import json

import numpy as np
import pytest

from aiida_mlipal.science.plain import to_plain


def test_numpy_and_nan():
    value = {
        'a': np.float64('nan'),
        'b': np.int64(3),
        'c': np.array([1.0, np.inf]),
        'd': (np.bool_(True), None, np.str_('x')),
    }
    plain = to_plain(value)
    assert plain == {'a': None, 'b': 3, 'c': [1.0, None], 'd': [True, None, 'x']}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_refuses_objects():
    with pytest.raises(TypeError, match='object'):
        to_plain({'a': object()})
