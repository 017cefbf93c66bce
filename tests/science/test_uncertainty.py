"""The measures of uncertainty, against numpy and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.uncertainty import MEASURES, measure, parts_of, size_factor, typical_maximum

from .builders import evaluation_of, silicon

RNG = np.random.default_rng(5)
FRAMES = Configurations.from_atoms(silicon(6, 0))
SPREAD = RNG.uniform(0.1, 1, 12)
REFERENCE = RNG.normal(size=(30, 4)) * [1, 10, 0.1, 2] + 3
EVALUATION = evaluation_of(FRAMES, RNG.normal(size=(6, 4)) + 3, forces_std=SPREAD).with_columns(
    energy_std=np.arange(6.0), stress_std=np.arange(6.0) / 10
)


@pytest.mark.parametrize('name', [*MEASURES, 'forces_max + latent_distance'])
def test_one_number_per_atom_and_one_per_frame(name):
    found = measure(name, EVALUATION, REFERENCE)
    assert found.per_atom.shape == (12,)
    assert found.per_frame.shape == (6,)
    assert (found.per_frame >= 0).all()
    order = [4, 0, 2]
    np.testing.assert_array_equal(measure(name, EVALUATION.take(order), REFERENCE).per_frame, found.per_frame[order])
    assert len(measure(name, EVALUATION.take([]), REFERENCE).per_frame) == 0


def test_spreads():
    def per_frame(name):
        return measure(name, EVALUATION, REFERENCE).per_frame

    pairs = SPREAD.reshape(6, 2)
    np.testing.assert_allclose(per_frame('forces_max'), pairs.max(axis=1))
    np.testing.assert_allclose(per_frame('forces_mean'), np.sqrt((pairs**2).mean(axis=1)))
    np.testing.assert_allclose(per_frame('energy_per_atom'), np.arange(6) / 2)
    np.testing.assert_allclose(per_frame('stress'), np.arange(6) / 10)
    np.testing.assert_allclose(measure('stress', EVALUATION, REFERENCE).per_atom, np.repeat(np.arange(6) / 10, 2))


def test_latent_distance_does_not_depend_on_the_units_of_a_descriptor():
    found = measure('latent_distance', EVALUATION, REFERENCE).per_frame
    scaled = (EVALUATION.descriptors[:, None] - REFERENCE[None]) / REFERENCE.std(axis=0)
    np.testing.assert_allclose(found, np.sqrt((scaled**2).mean(axis=2)).min(axis=1))
    units = np.array([10.0, 1, 7, 0.1])
    other = EVALUATION.with_columns(descriptors=EVALUATION.descriptors * units)
    np.testing.assert_allclose(measure('latent_distance', other, REFERENCE * units).per_frame, found)
    known = EVALUATION.with_columns(descriptors=REFERENCE[:6])
    assert measure('latent_distance', known, REFERENCE).per_frame.max() == 0
    assert np.isinf(measure('latent_distance', EVALUATION, REFERENCE[:0]).per_frame).all()
    assert np.isinf(measure('mahalanobis', EVALUATION, REFERENCE[:1]).per_frame).all()


def test_mahalanobis_with_many_frames_is_that_of_the_sample_covariance():
    many = RNG.multivariate_normal(np.zeros(4), np.diag([1, 4, 9, 1.0]) + 0.5, size=200_000)
    found = measure('mahalanobis', EVALUATION, many).per_frame
    apart = EVALUATION.descriptors - many.mean(axis=0)
    exact = np.sqrt(np.einsum('fi,ij,fj->f', apart, np.linalg.inv(np.cov(many.T)), apart) / 4)
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_shrinkage_comes_close_to_the_truth_with_few_frames():
    """Fewer frames than components, where the sample covariance has no inverse: distances still rank as the true."""
    rng = np.random.default_rng(2)
    scale = np.geomspace(1, 3, 40)
    few = rng.normal(size=(20, 40)) * scale
    frames = Configurations.from_atoms(silicon(60, 1))
    far = np.linspace(0.5, 3, 60)[:, None]
    evaluation = evaluation_of(frames, far * scale * rng.normal(size=(60, 40)))
    found = measure('mahalanobis', evaluation, few).per_frame
    exact = np.sqrt(np.mean((evaluation.descriptors / scale) ** 2, axis=1))
    assert np.corrcoef(np.log(found), np.log(exact))[0, 1] > 0.95
    assert 0.5 < np.median(found / exact) < 2


def test_average_is_a_geometric_mean_whatever_the_units():
    both = measure('forces_max+latent_distance', EVALUATION, REFERENCE)
    one, other = (measure(name, EVALUATION, REFERENCE) for name in ('forces_max', 'latent_distance'))
    np.testing.assert_allclose(both.per_frame, np.sqrt(one.per_frame * other.per_frame))
    np.testing.assert_allclose(both.per_atom, np.sqrt(one.per_atom * other.per_atom))
    in_milli = measure('forces_max+latent_distance', EVALUATION.with_columns(forces_std=1000 * SPREAD), REFERENCE)
    assert np.argsort(in_milli.per_frame).tolist() == np.argsort(both.per_frame).tolist()


def test_unknown_measures_are_refused_with_the_list():
    assert parts_of('stress +forces_mean') == ['stress', 'forces_mean']
    for name in ('forces', 'stress + ', ''):
        with pytest.raises(ValueError, match=r'unknown measure of uncertainty.*Valid: energy_per_atom, forces_max, '):
            parts_of(name)


@settings(deadline=None, max_examples=15)
@given(n_atoms=st.sampled_from([1, 2, 8, 64, 512]), n_members=st.integers(2, 6))
def test_typical_maximum_is_a_median(n_atoms, n_members):
    """Of the largest spread among atoms of equal quality, by drawing committees."""
    rng = np.random.default_rng([n_atoms, n_members])
    n_draws = 40_000 // n_atoms + 400
    degrees = 3 * (n_members - 1)
    spread = np.sqrt(rng.chisquare(degrees, (n_draws, n_atoms)) / degrees)
    assert typical_maximum(np.array([n_atoms]), degrees)[0] == pytest.approx(np.median(spread.max(axis=1)), rel=0.06)


def test_what_size_alone_does():
    sizes = np.array([8, 512])
    committee = size_factor('forces_max', sizes, 4)
    assert committee.tolist() == typical_maximum(sizes, 9).tolist()
    assert committee[1] / committee[0] > 1.3
    assert size_factor('forces_max', sizes, 1).tolist() == [1, 1]  # what one model says is no sample
    assert size_factor('mahalanobis', sizes, 4).tolist() == [1, 1]
    np.testing.assert_allclose(size_factor('forces_max + mahalanobis', sizes, 4), np.sqrt(committee))
