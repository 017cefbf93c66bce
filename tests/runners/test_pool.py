from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.runners.pool import thin
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.decorrelation import statistical_inefficiency
from aiida_mlipal.science.descriptors import standardise
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper

PLANS = ExplorationSettings(seed=1).read_plans()


def _visited(descriptors: np.ndarray, **columns) -> tuple[Configurations, Evaluation]:
    n = len(descriptors)
    defaults = {
        'role': 'candidate',
        'plan': 'dynamics',
        'trajectory': 'i00-r000',
        'step': np.arange(n),
        'origin': 'dynamics',
    }
    frames = Configurations.from_atoms([copper(seed) for seed in range(n)], **{**defaults, **columns})
    evaluation = Evaluation(
        frame_id=frames.frame_id, n_atoms=frames.n_atoms, energy=np.zeros(n), forces=np.zeros((4 * n, 3)),
        stress=np.zeros((n, 6)), energy_std=np.zeros(n), stress_std=np.full(n, np.nan),
        forces_std=np.repeat(np.arange(n, dtype=float), 4), member_energy=np.zeros((n, 2)), descriptors=descriptors,
    )  # fmt: skip
    return frames, evaluation


@pytest.fixture(scope='module')
def slow() -> np.ndarray:
    """A trajectory that takes ten frames to forget."""
    rng = np.random.default_rng(1)
    return np.cumsum(rng.normal(size=(60, 4)), axis=0) * 0.1 + rng.normal(size=(60, 4)) * 0.01


def test_a_trajectory_gives_a_frame_per_correlation_time(slow):
    frames, evaluation = _visited(slow)
    rows, report = thin(frames, evaluation, PLANS, 100)
    table, _ = standardise(slow, slow[:0])
    stride = int(np.ceil(statistical_inefficiency(table)))
    assert stride > 2
    assert report['strides'] == {'i00-r000': stride}
    assert rows.tolist() == sorted(range(59, -1, -stride))
    assert report['n_correlated'] == 60 - len(rows)
    assert report['n_thinned'] == 0
    assert report['correlated_uncertainty_quantiles']['1'] == 58


def test_neither_the_stream_nor_what_is_marked_is_thrown_away(slow):
    role = np.array(['candidate'] * 60, dtype='<U11')
    role[[3, 11]] = ['test', 'calibration']
    origin = np.array(['dynamics'] * 60, dtype='<U12')
    origin[[57, 58]] = ['last_safe', 'first_unsafe']
    frames, evaluation = _visited(slow, role=role, origin=origin)
    rows, _ = thin(frames, evaluation, PLANS, 1)
    assert {3, 11} <= set(rows.tolist())
    assert len(rows) == 3
    rows, report = thin(frames, evaluation, PLANS, 4)
    assert {3, 11, 57, 58} <= set(rows.tolist())
    assert len(rows) == 6
    assert report['n_correlated'] + report['n_thinned'] == 54


def test_images_of_a_path_are_not_a_trajectory_in_time(slow):
    frames, evaluation = _visited(slow, plan='path')
    rows, report = thin(frames, evaluation, PLANS, 100)
    assert len(rows) == 60
    assert report['strides'] == {}


def test_the_farthest_are_kept_whatever_their_order():
    descriptors = np.random.default_rng(3).normal(size=(40, 3))
    columns = {'trajectory': [f'i00-r{index:03d}' for index in range(40)]}
    frames, evaluation = _visited(descriptors, **columns)
    rows, report = thin(frames, evaluation, PLANS, 8)
    assert report['n_thinned'] == 32
    table, _ = standardise(descriptors, descriptors[:0])
    taken = [int(np.argmax(np.linalg.norm(table, axis=1)))]
    while len(taken) < 8:
        distances = np.linalg.norm(table[:, None] - table[taken], axis=2).min(axis=1)
        taken.append(int(np.argmax(distances)))
    assert rows.tolist() == sorted(taken)
    order = np.random.default_rng(4).permutation(40)
    again, _ = thin(frames.take(order), evaluation.take(order), PLANS, 8)
    assert sorted(order[again].tolist()) == sorted(taken)


def test_nothing_visited():
    rows, report = thin(Configurations.empty(), Evaluation.empty(), PLANS, 8)
    assert len(rows) == 0
    assert report['n_thinned'] == 0
