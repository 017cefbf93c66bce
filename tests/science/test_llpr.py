"""Last-layer prediction rigidity against an explicit Bayesian linear regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from aiida_mlipal.science.last_layer import LastLayerData
from aiida_mlipal.science.llpr import fit

N_FEATURES = 12


def linear_world(n_frames: int, noise: float, seed: int, n_atoms: int = 4) -> LastLayerData:
    """Return frames whose errors are those of a least-squares fit to a linear truth with noise."""
    rng = np.random.default_rng(seed)
    scale = np.logspace(-1, 1, N_FEATURES)
    energy = rng.normal(size=(n_frames, N_FEATURES)) * scale
    forces = rng.normal(size=(3 * n_atoms * n_frames, N_FEATURES)) * scale
    error = np.random.default_rng(99).normal(size=N_FEATURES) * noise / scale  # the same wrong weights everywhere
    return LastLayerData(
        energy=energy,
        forces=forces,
        n_atoms=np.full(n_frames, n_atoms),
        energy_error=energy @ error,
        forces_error=forces @ error,
    )


def variance(rows, features):
    return np.sum((features @ rows.T) ** 2, axis=1)


def test_variances_are_those_of_the_gaussian_posterior():
    """With every direction kept, they are f^T (X^T X + ridge)^-1 f of a regression written down in another way."""
    train, valid = linear_world(20, 0.1, 0), linear_world(8, 0.1, 1)
    found = fit(train, valid, seed=0, n_directions=N_FEATURES)
    scale = np.sqrt(np.mean(train.forces**2, axis=0))
    force_unit = np.sqrt(np.mean(valid.forces_error**2))
    energy_unit = np.sqrt(np.mean((valid.energy_error / 4) ** 2))
    design = np.vstack([train.forces / scale / force_unit, train.energy / scale / 4 / energy_unit])
    covariance = np.linalg.inv(design.T @ design + found.report['ridge'] * np.eye(N_FEATURES))
    for rows, features, alpha in (
        (found.forces, valid.forces, found.report['alpha_forces']),
        (found.energy, valid.energy, found.report['alpha_energy']),
    ):
        scaled = features / scale
        expected = alpha**2 * np.array([row @ covariance @ row for row in scaled])
        np.testing.assert_allclose(variance(rows, features), expected, rtol=1e-8)


def test_alpha_is_where_the_likelihood_is_highest():
    train, valid = linear_world(20, 0.1, 0), linear_world(8, 0.1, 1)
    found = fit(train, valid, seed=0, n_directions=N_FEATURES)
    for rows, features, errors in (
        (found.forces, valid.forces, valid.forces_error),
        (found.energy, valid.energy, valid.energy_error),
    ):
        variances = variance(rows, features)

        def minus_log_likelihood(log_factor, variances=variances, errors=errors):
            scaled = np.exp(2 * log_factor) * variances
            return np.sum(np.log(scaled) + errors**2 / scaled)

        best = minimize_scalar(minus_log_likelihood, bounds=(-2, 2), method='bounded')
        assert best.x == pytest.approx(0.0, abs=1e-3)


def test_few_directions_have_the_covariance_as_their_mean():
    train, valid = linear_world(20, 0.1, 0), linear_world(8, 0.1, 1)
    exact = fit(train, valid, seed=0, n_directions=N_FEATURES)
    sampled = [fit(train, valid, seed=seed, n_directions=4).forces for seed in range(200)]
    mean = np.mean([rows.T @ rows for rows in sampled], axis=0)
    full = exact.forces.T @ exact.forces
    size = np.sqrt(np.outer(np.diag(full), np.diag(full)))
    assert np.abs((mean - full) / size).max() < 0.2
    # The same seed gives the same directions, and another one others.
    np.testing.assert_array_equal(sampled[0], fit(train, valid, seed=0, n_directions=4).forces)
    assert not np.allclose(sampled[0], sampled[1])


def test_a_direction_that_was_never_seen_is_uncertain():
    """In a feature that the training set does not vary much, the uncertainty is larger than its share."""
    train, valid = linear_world(20, 0.1, 0), linear_world(8, 0.1, 1)
    seen = np.ones(N_FEATURES)
    seen[3] = 1e-3
    narrow = LastLayerData(
        energy=train.energy * seen, forces=train.forces * seen, n_atoms=train.n_atoms,
        energy_error=train.energy_error, forces_error=train.forces_error,
    )  # fmt: skip
    narrow_valid = LastLayerData(
        energy=valid.energy * seen, forces=valid.forces * seen, n_atoms=valid.n_atoms,
        energy_error=valid.energy_error, forces_error=valid.forces_error,
    )  # fmt: skip
    found = fit(narrow, narrow_valid, seed=0, n_directions=N_FEATURES)
    wide = np.eye(N_FEATURES) * np.sqrt(np.mean(train.forces**2, axis=0))
    spread = variance(found.forces, wide)
    assert spread[3] > 1e4 * np.delete(spread, 3).max()


def test_features_of_other_heads_change_nothing():
    train, valid = linear_world(20, 0.1, 0), linear_world(8, 0.1, 1)

    def padded(data):
        wider = {name: np.pad(getattr(data, name), ((0, 0), (0, 5))) for name in ('energy', 'forces')}
        return LastLayerData(
            **wider, n_atoms=data.n_atoms, energy_error=data.energy_error, forces_error=data.forces_error
        )

    found, wide = fit(train, valid, seed=3), fit(padded(train), padded(valid), seed=3)
    assert wide.report == found.report
    np.testing.assert_allclose(wide.forces[:, :N_FEATURES], found.forces)
    assert not wide.forces[:, N_FEATURES:].any()


def test_perfect_crystals_calibrate_nothing():
    train, valid = linear_world(4, 0.1, 0), linear_world(4, 0.1, 1)
    flat = LastLayerData(
        energy=valid.energy, forces=0 * valid.forces, n_atoms=valid.n_atoms,
        energy_error=valid.energy_error, forces_error=0 * valid.forces_error,
    )  # fmt: skip
    with pytest.raises(ValueError, match='Add rattled frames'):
        fit(train, flat, seed=0)
    with pytest.raises(ValueError, match='all features are constant'):
        fit(flat, valid, seed=0)
