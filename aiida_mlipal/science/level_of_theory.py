"""Level of theory: what makes two labels comparable, as a readable dictionary and its digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ('canonical', 'difference', 'digest', 'require_equal')


def _canonical(value: Any, path: str) -> Any:
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f'`{path}` of the level of theory is {number}, expected a finite number.')
        return number + 0.0  # no negative zero: it would change the digest and nothing else
    if isinstance(value, Mapping):
        items = {str(key): item for key, item in value.items()}
        return {key: _canonical(items[key], f'{path}.{key}' if path else key) for key in sorted(items)}
    if isinstance(value, np.ndarray):
        return _canonical(value.tolist(), path)
    if isinstance(value, (list, tuple)):
        return [_canonical(item, f'{path}[{index}]') for index, item in enumerate(value)]
    raise ValueError(
        f'`{path}` of the level of theory is a {type(value).__name__}, expected text, a number, a list or a mapping.'
    )


def _numbers_as_text(value: Any) -> Any:
    """Spell numbers by ``repr`` of their double, so that 30 and 30.0 (YAML, JSON) are one level of theory."""
    if isinstance(value, dict):
        return {key: _numbers_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers_as_text(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {'number': repr(float(value))}
    return value


def canonical(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the level of theory with sorted text keys and JSON-safe values.

    :raises ValueError: for a value that is not finite or has no JSON form, naming its key.
    """
    result: dict[str, Any] = _canonical(description, '')
    return result


def digest(description: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the canonical form. Key order and 30 or 30.0 do not matter."""
    text = json.dumps(_numbers_as_text(canonical(description)), sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flatten(value: Any, path: str = '') -> dict[str, Any]:
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat.update(_flatten(item, f'{path}.{key}' if path else key))
        return flat
    return {path: value} if path else {}


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return what differs, one readable line per key: ``'system.ecutwfc: 30.0 -> 40.0'``. Empty if equal."""
    left, right = _flatten(canonical(a)), _flatten(canonical(b))
    lines = []
    for key in sorted(left.keys() | right.keys()):
        if key in left and key in right:
            if _numbers_as_text(left[key]) != _numbers_as_text(right[key]):
                lines.append(f'{key}: {left[key]} -> {right[key]}')
        else:
            lines.append(f'{key}: {left.get(key, "(absent)")} -> {right.get(key, "(absent)")}')
    return lines


def require_equal(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> None:
    """Refuse two levels of theory that differ: labels of both must never meet in one set.

    :param what: the subject of the message, for example ``'the initial dataset and this campaign'``.
    :raises ValueError: with one line per difference.
    """
    lines = difference(a, b)
    if lines:
        raise ValueError(
            '\n'.join([f'{what} have different levels of theory:', *(f'  {line}' for line in lines)])
            + '\nLabel the frames of one with the settings of the other, or let one model learn from both: give one of '
            'them to the training as `other_datasets`.'
        )
