"""Frames that repeat one of the random stream are found, others are not."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.fingerprint import fingerprints
from aiida_mlipal.science.stream import repeats_of_stream

from .builders import silicon


def _descriptors(moved: float) -> np.ndarray:
    frames = silicon(20, seed=3)
    repeat = frames[0].copy()
    repeat.positions += [0.3, 0.1, -0.2]  # the same geometry, moved as a whole
    repeat.positions[1] += moved
    return fingerprints(Configurations.from_atoms([*frames, repeat]))


@pytest.mark.parametrize(('moved', 'expected'), [(0.0, [20]), (1e-5, [20]), (0.05, [])])
def test_a_repeat_is_found(moved, expected):
    stream = np.zeros(21, dtype=bool)
    stream[[0, 1]] = True
    assert np.flatnonzero(repeats_of_stream(_descriptors(moved), stream, 0.01)).tolist() == expected


def test_repeats_among_others_are_left_alone():
    stream = np.zeros(21, dtype=bool)
    assert not repeats_of_stream(_descriptors(0.0), stream, 0.01).any()
    stream[5] = True
    assert not repeats_of_stream(_descriptors(0.0), stream, 0.01).any()
    assert not repeats_of_stream(_descriptors(0.0), ~np.zeros(21, dtype=bool), 0.01).any()
