"""Datasets grow by calculations, so that each version has a history."""

from __future__ import annotations

import time

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.level_of_theory import require_equal

__all__ = ('merge_datasets', 'random_stream', 'read_clock')


@calcfunction
def merge_datasets(**parts: ConfigurationsData) -> ConfigurationsData:
    """Return all frames of ``parts`` in the order of their names; a frame that comes twice stays once.

    :raises ValueError: if the labels differ in their level of theory, with the difference line by line.
    """
    nodes = [parts[name] for name in sorted(parts)]
    for node in nodes[1:]:
        require_equal(nodes[0].level_of_theory or {}, node.level_of_theory or {}, 'datasets')
    merged = Configurations.concatenate([node.configurations for node in nodes])
    first: dict[str, int] = {}
    for row, frame in enumerate(merged.frame_id.tolist()):
        first.setdefault(frame, row)
    return ConfigurationsData(merged.take(list(first.values())), level_of_theory=nodes[0].level_of_theory)


@calcfunction
def random_stream(dataset: ConfigurationsData) -> ConfigurationsData:
    """Return the frames of the random stream: never trained on, drawn uniformly from what the simulations visited."""
    frames = dataset.configurations
    return ConfigurationsData(
        frames.take(frames.has_role('calibration', 'test')), level_of_theory=dataset.level_of_theory
    )


@calcfunction
def read_clock() -> orm.Float:
    """Return the time in seconds since the epoch: a reading that a decision took into account is its input."""
    return orm.Float(time.time())
