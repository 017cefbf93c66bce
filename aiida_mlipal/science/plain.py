"""Plain values: what JSON, YAML and AiiDA's ``Dict`` can hold, out of what numpy computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ('to_plain',)


def to_plain(value: Any) -> Any:
    """Return ``value`` with numpy types as Python's, tuples as lists, and NaN and infinities as None.

    :raises TypeError: for what has no plain form.
    """
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    raise TypeError(f'{value!r} of type {type(value).__name__} has no plain form.')
