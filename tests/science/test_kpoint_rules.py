"""The interval of distances that a mesh admits is that of the engine, and the fewest distances are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase.build import bulk, fcc111
from hypothesis import given
from hypothesis import strategies as st

from aiida_mlipal.calculations.frames import kpoint_mesh
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.kpoint_rules import common_distances, distance_interval, roundest


@given(st.floats(0.05, 2.0), st.integers(0, 2))
def test_interval_is_where_the_engine_gives_the_mesh(distance, index):
    atoms = [bulk('Si'), bulk('Ti') * (2, 1, 1), fcc111('Al', (1, 1, 3), vacuum=6.0)][index]
    frames = Configurations.from_atoms([atoms])

    def mesh(value):
        return kpoint_mesh(frames, 0, value, [0.0, 0.0, 0.0])[0]

    low, high = distance_interval(atoms.cell.array, atoms.pbc, mesh(distance))
    assert low <= distance < high
    assert mesh(low) == mesh(distance)
    assert mesh(low * (1 - 1e-6)) != mesh(distance)
    if math.isfinite(high):
        assert mesh(high * (1 - 1e-6)) == mesh(distance)
        assert mesh(high * (1 + 1e-6)) != mesh(distance)


def test_a_mesh_that_no_distance_gives():
    assert distance_interval(np.eye(3) * 5.0, (True, True, True), (4, 4, 2)) is None
    assert distance_interval(np.eye(3) * 5.0, (True, True, False), (4, 4, 2)) is None
    assert distance_interval(np.eye(3) * 5.0, (True, True, False), (4, 4, 1)) is not None


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [(0.31, 0.49, 0.4), (0.1487, 0.1732, 0.15), (0.31, 0.314, 0.31), (1.2, math.inf, 2.0), (0.0, math.inf, 1.0)],
)
def test_roundest(low, high, expected):
    assert roundest(low, high) == expected


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.001, 1.0)), min_size=1, max_size=8))
def test_fewest_distances(pairs):
    """Each interval holds a point, and there are as many intervals that do not meet one another as there are points."""
    intervals = [(low, low + width) for low, width in pairs]
    points = common_distances(intervals)
    assert all(any(low <= point < high for point in points) for low, high in intervals)
    disjoint, end = 0, -1.0
    for low, high in sorted(intervals, key=lambda interval: interval[1]):
        if low >= end:
            disjoint, end = disjoint + 1, high
    assert len(points) == disjoint
