"""Settings are frozen dataclasses; this reads one from a plain mapping and names what does not belong there."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, TypeVar

__all__ = ('check_flag', 'check_integer', 'check_number', 'from_dict', 'unknown_name')

SettingsT = TypeVar('SettingsT')


def unknown_name(what: str, name: object, valid: Iterable[str]) -> str:
    """Return the message for an unknown ``name``: the nearest valid one, if any is near, and the list of all.

    :param what: what the name stands for, for example ``'key'`` or ``'generator'``.
    """
    names = sorted(valid)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f' Did you mean `{nearest[0]}`?' if nearest else ''
    return f'unknown {what} `{name}`.{hint} Valid: {", ".join(names)}.'


def from_dict(cls: type[SettingsT], mapping: Mapping[str, Any]) -> SettingsT:
    """Return the settings dataclass ``cls`` built from ``mapping``. Missing keys take their defaults.

    :raises ValueError: for an unknown key, with the nearest valid one and the list of all, and for a missing key that
        has no default. What ``cls`` itself refuses in ``__post_init__`` passes through.
    """
    name = cls.__name__
    valid = [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
    problems = [unknown_name('key', key, valid) for key in mapping if key not in valid]
    if problems:
        raise ValueError(f'{name}: ' + ' '.join(problems))
    try:
        return cls(**mapping)
    except TypeError as exception:
        raise ValueError(f'{name}: {exception}. Valid keys: {", ".join(sorted(valid))}.') from exception


def check_flag(name: str, value: object) -> None:
    """Refuse anything but true or false.

    :raises ValueError: naming the setting, what was found and what was expected.
    """
    if not isinstance(value, bool):
        raise ValueError(f'`{name}` must be true or false, got {value!r}.')


def check_integer(name: str, value: object, *, at_least: int = 1) -> None:
    """Refuse anything but an integer that is not below ``at_least``.

    :raises ValueError: naming the setting, what was found and what was expected.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < at_least:
        raise ValueError(f'`{name}` must be an integer of at least {at_least}, got {value!r}.')


def check_number(
    name: str, value: object, *, above: float | None = None, within: tuple[float, float] | None = None
) -> None:
    """Refuse anything but a finite number, greater than ``above`` or inside the closed interval ``within``.

    :raises ValueError: naming the setting, what was found and what was expected.
    """
    expected = 'a finite number'
    if above is not None:
        expected = f'a number greater than {above:g}'
    elif within is not None:
        expected = f'a number from {within[0]:g} to {within[1]:g}'
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    if good and above is not None:
        good = float(value) > above  # type: ignore[arg-type]
    if good and within is not None:
        good = within[0] <= float(value) <= within[1]  # type: ignore[arg-type]
    if not good:
        raise ValueError(f'`{name}` must be {expected}, got {value!r}.')
