"""The drift alarm on cases whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.drift import TrainingDomain, active_set, drift, energy_z_scores, grades


@pytest.fixture(scope='module')
def training() -> np.ndarray:
    """Two broad directions among ten: 95 % of the variance is in them."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(300, 10)) * np.array([3.0, 1.5, *[0.05] * 8]) + 7.0


@pytest.fixture(scope='module')
def domain(training) -> TrainingDomain:
    found = TrainingDomain.of(training)
    assert found is not None
    return found


def test_principal_components_hold_the_variance(domain):
    assert domain.scores.shape == (300, 2)
    np.testing.assert_allclose(domain.scores.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(domain.scores.var(axis=0), 1, atol=1e-10)


def test_the_density_is_that_of_scipy(domain, training):
    frames = training[:20] + 0.3
    ours = domain.log_density_ratios(frames)
    reference = gaussian_kde(domain.scores.T)
    theirs = reference.logpdf(domain.project(frames).T)
    # Scores have unit covariance, up to N / (N - 1): the same kernels.
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], atol=0.02)


def test_fresh_frames_of_the_same_kind_are_inside_and_far_ones_outside(domain):
    rng = np.random.default_rng(2)
    scale = np.array([3.0, 1.5, *[0.05] * 8])
    same = rng.normal(size=(400, 10)) * scale + 7.0
    assert np.mean(domain.log_density_ratios(same) < 0) < 0.06
    assert np.median(domain.nearest_distances(same)) < 2
    far = same + np.array([20.0, *[0.0] * 9])
    assert (domain.log_density_ratios(far) < 0).all()
    assert np.median(domain.nearest_distances(far)) > 10
    assert np.mean(grades(domain.extrapolation(far)) > 1) > 0.95
    # A hole in the middle of the data is interpolation for the grade, but empty.
    ring = rng.normal(size=(300, 2))
    ring *= (5 + 0.1 * rng.normal(size=(300, 1))) / np.linalg.norm(ring, axis=1, keepdims=True)
    hollow = TrainingDomain.of(ring)
    assert hollow is not None
    assert hollow.log_density_ratios(np.zeros((1, 2)))[0] < 0
    assert grades(hollow.extrapolation(np.zeros((1, 2)))).tolist() == [1]


def test_training_frames_are_interpolated_and_twice_as_far_is_not(domain, training):
    values = domain.extrapolation(training)
    assert values.max() <= 1.01 + 1e-9
    out = domain.mean + 30 * (training - domain.mean)
    assert domain.extrapolation(out).max() > 10


def test_in_one_dimension_the_grade_is_the_distance_along_the_line():
    domain = TrainingDomain.of(np.linspace(0, 1, 11)[:, None])
    assert domain is not None
    # Between 0 and 1 the barycentric coordinates x and 1 - x are at most 1; at 3 they are 3 and -2.
    np.testing.assert_allclose(
        domain.extrapolation(np.array([[0.0], [0.5], [1.0], [3.0], [-1.5]])), [1, 0.5, 1, 3, 2.5]
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_no_exchange_makes_the_active_set_larger(seed, n_columns):
    rows = np.random.default_rng(seed).normal(size=(12, n_columns))
    active = active_set(rows)
    volume = abs(np.linalg.det(rows[active]))
    for place in range(n_columns):
        for row in range(len(rows)):
            other = active.copy()
            other[place] = row
            assert abs(np.linalg.det(rows[other])) <= 1.01 * volume * (1 + 1e-9)


def test_grades_run_from_one_to_five():
    assert grades(np.array([0.3, 1.0, 1.5, 2.0, 4.9, 9.0, 10.1, 1e6])).tolist() == [1, 1, 2, 2, 3, 4, 5, 5]


def test_energies_are_held_against_their_composition():
    rng = np.random.default_rng(3)
    atoms = [Atoms('Cu' * a + 'Au' * b, positions=rng.normal(size=(a + b, 3))) for a in (1, 2, 3) for b in (1, 2, 4)]
    frames = Configurations.from_atoms(atoms)
    numbers = np.array([[(one.numbers == 29).sum(), (one.numbers == 79).sum()] for one in atoms])
    noise = rng.normal(size=9) * 0.01
    energies = numbers @ [-100.0, -300.0] + noise * frames.n_atoms
    scores = energy_z_scores(frames, energies, frames, energies)
    assert np.abs(scores).max() < 3
    shifted = energy_z_scores(frames, energies, frames, energies + 5 * frames.n_atoms)
    assert shifted.min() > 100
    flat = Configurations.from_atoms(atoms[:1] * 3)
    assert np.isnan(energy_z_scores(flat, np.full(3, -1.0), flat, np.zeros(3))).all()


def test_the_alarm_is_for_most_frames_outside(training):
    rng = np.random.default_rng(4)
    same = training[rng.permutation(300)[:50]]
    calm = drift(training, same, np.zeros(50))
    assert not calm['alarm']
    assert calm['n_components'] >= 2
    assert sum(calm['grades'].values()) == 50
    alarmed = drift(training, same + 30.0, np.arange(50.0))
    assert alarmed['alarm']
    assert alarmed['outside_share'] == 1.0
    assert alarmed['max_energy_z_score'] == 49.0
    assert drift(training[:3], same, np.zeros(50)) == {'n_frames': 50, 'n_training': 3}
