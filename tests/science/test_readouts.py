"""Readouts fitted to bootstrap samples, against an explicit ridge regression and the theory of least squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from aiida_mlipal.science.last_layer import LastLayerData
from aiida_mlipal.science.readouts import fit_readouts

N_FEATURES, N_ATOMS = 6, 4
SCALES = np.logspace(-1, 1, N_FEATURES)


def noisy_world(n_frames: int, seed: int) -> LastLayerData:
    """Return frames whose labels differ from a linear truth, which the model has found, by noise."""
    rng = np.random.default_rng(seed)
    return LastLayerData(
        energy=rng.normal(size=(n_frames, N_FEATURES)) * SCALES,
        forces=rng.normal(size=(3 * N_ATOMS * n_frames, N_FEATURES)) * SCALES,
        n_atoms=np.full(n_frames, N_ATOMS),
        energy_error=rng.normal(scale=0.4, size=n_frames),
        forces_error=rng.normal(scale=0.2, size=3 * N_ATOMS * n_frames),
    )


def test_readouts_are_ridge_regressions_on_bootstrap_samples():
    """What was drawn twice is written down twice, and the ridge as rows of the design matrix."""
    train, valid = noisy_world(10, 0), noisy_world(8, 1)
    found = fit_readouts(train, valid, n_readouts=5, seed=3)
    rng = np.random.default_rng(3)
    scale = np.sqrt(np.mean(train.forces**2, axis=0))
    force_unit = np.sqrt(np.mean(valid.forces_error**2))
    energy_unit = np.sqrt(np.mean((valid.energy_error / N_ATOMS) ** 2))
    weights = []
    for _ in range(5):
        frames = np.repeat(np.arange(10), rng.multinomial(10, np.full(10, 0.1)))
        atoms = np.repeat(np.arange(40), rng.multinomial(40, np.full(40, 1 / 40)))
        rows = (3 * atoms[:, None] + np.arange(3)).ravel()
        design = np.vstack(
            [
                train.forces[rows] / scale / force_unit,
                train.energy[frames] / scale / N_ATOMS / energy_unit,
                np.sqrt(found.report['ridge']) * np.eye(N_FEATURES),
            ]
        )
        wanted = np.concatenate(
            [
                -train.forces_error[rows] / force_unit,
                -train.energy_error[frames] / N_ATOMS / energy_unit,
                np.zeros(N_FEATURES),
            ]
        )
        weights.append(np.linalg.lstsq(design, wanted, rcond=None)[0] / scale)
    deviations = np.array(weights) - np.mean(weights, axis=0)
    np.testing.assert_allclose(found.forces * np.sqrt(4), found.report['alpha_forces'] * deviations, rtol=1e-6)
    np.testing.assert_array_equal(found.energy, found.forces)


def test_the_spread_is_as_large_as_the_errors_of_the_validation_forces():
    train, valid = noisy_world(10, 0), noisy_world(8, 1)
    rows = fit_readouts(train, valid, n_readouts=8, seed=0).forces
    variances = np.sum((valid.forces @ rows.T) ** 2, axis=1)
    assert np.mean(variances) == pytest.approx(np.mean(valid.forces_error**2))


def test_many_readouts_have_the_covariance_of_least_squares():
    """For errors that are independent, the bootstrap's covariance of the weights is that of the regression."""
    train, valid = noisy_world(60, 0), noisy_world(20, 1)
    rows = fit_readouts(train, valid, n_readouts=400, seed=0).forces
    energies = train.energy / N_ATOMS * 0.2 / 0.1  # in units of the noise of the forces
    covariance = np.linalg.inv(train.forces.T @ train.forces + energies.T @ energies)
    expected = np.einsum('cp,pq,cq->c', valid.forces, covariance, valid.forces)
    found = np.sum((valid.forces @ rows.T) ** 2, axis=1)
    assert spearmanr(expected, found).statistic > 0.9
    ratio = found / expected
    assert np.std(np.log(ratio)) < 0.3


def test_the_seed_decides():
    train, valid = noisy_world(10, 0), noisy_world(8, 1)
    first, again, other = (fit_readouts(train, valid, n_readouts=4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.forces, again.forces)
    assert first.report == again.report
    assert not np.allclose(first.forces, other.forces)


def test_readouts_that_cannot_be_fitted():
    train, valid = noisy_world(10, 0), noisy_world(8, 1)
    with pytest.raises(ValueError, match=r'all features are constant\. Add rattled frames'):
        fit_readouts(replace(train, forces=0 * train.forces), valid, n_readouts=4, seed=0)
    with pytest.raises(ValueError, match='cannot be calibrated'):
        fit_readouts(train, replace(valid, forces=0 * valid.forces), n_readouts=4, seed=0)
