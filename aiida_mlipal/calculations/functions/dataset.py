"""Datasets grow by calculations, so that each version has a history."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.level_of_theory import require_equal
from aiida_mlipal.science.stream import STREAM

__all__ = ('common_level', 'join', 'merge_datasets', 'random_stream', 'read_clock')


def common_level(parts: Mapping[str, ConfigurationsData]) -> dict[str, Any] | None:
    """Return the level of theory that all ``parts`` share.

    :raises ValueError: for two levels, with the difference line by line, and for labels of an unknown level.
    """
    first, *others = sorted(parts)
    level = parts[first].level_of_theory
    for name in others:
        what = f'`{first}` (node {parts[first].pk}) and `{name}` (node {parts[name].pk})'
        require_equal(level or {}, parts[name].level_of_theory or {}, what)
    nameless = [name for name in sorted(parts) if parts[name].base.attributes.get('n_labelled')]
    if others and level is None and nameless:
        raise ValueError(
            f'{", ".join(f"`{name}` (node {parts[name].pk})" for name in nameless)} have labels without a level of '
            'theory, so nobody knows whether they go together: give them one, '
            '`ConfigurationsData(frames, level_of_theory={...})`.'
        )
    return level


def join(parts: Mapping[str, ConfigurationsData]) -> tuple[Configurations, dict[str, Any] | None]:
    """Return all frames of ``parts`` in the order of their names, one that comes twice once, and their level of theory.

    :raises ValueError: if the labels differ in their level of theory, with the difference line by line.
    """
    level = common_level(parts)
    merged = Configurations.concatenate([parts[name].configurations for name in sorted(parts)])
    first: dict[str, int] = {}
    for row, frame in enumerate(merged.frame_id.tolist()):
        first.setdefault(frame, row)
    return merged.take(list(first.values())), level


@calcfunction
def merge_datasets(**parts: ConfigurationsData) -> ConfigurationsData:
    """Return all frames of ``parts`` in the order of their names; a frame that comes twice stays once.

    :raises ValueError: if the labels differ in their level of theory, with the difference line by line.
    """
    frames, level = join(parts)
    return ConfigurationsData(frames, level_of_theory=level)


@calcfunction
def random_stream(dataset: ConfigurationsData) -> ConfigurationsData:
    """Return the frames of the random stream: never trained on, drawn uniformly from what the simulations visited."""
    frames = dataset.configurations
    return ConfigurationsData(frames.take(frames.has_role(*STREAM)), level_of_theory=dataset.level_of_theory)


@calcfunction
def read_clock() -> orm.Float:
    """Return the time in seconds since the epoch: a reading that a decision took into account is its input."""
    return orm.Float(time.time())
