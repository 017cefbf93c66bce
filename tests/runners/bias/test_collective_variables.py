from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list

from aiida_mlipal.runners.bias.collective_variables import Latents, make_variable
from aiida_mlipal.runners.committee import evaluate
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.science.collective_variables import read_variables
from aiida_mlipal.science.configurations import Configurations
from tests.runners.bias.frames import frames, numerical_gradient, replica

VARIABLES = (
    {'type': 'distance', 'atoms': [0, 3], 'width': 1},
    {'type': 'angle', 'atoms': [0, 1, 2], 'width': 1},
    {'type': 'dihedral', 'atoms': [0, 1, 2, 3], 'width': 1},
    {'type': 'coordination', 'radius': 2.8, 'centres': [0, 2], 'neighbours': 'Cu', 'width': 1},
    {'type': 'latent', 'component': 1},
)


@pytest.fixture(scope='module')
def forces(committee) -> MaceForces:
    return MaceForces(committee)


@pytest.fixture(scope='module')
def latents(forces) -> Latents:
    return Latents.of(Configurations.from_atoms(frames()), forces, rattle=0.1, key=[1, 0])


def systems(some=None) -> Systems:
    return Systems([replica(index, atoms) for index, atoms in enumerate(some or frames())])


def value(item, latents, batch, positions=None):
    (variable,) = read_variables([item])
    return make_variable(variable, {0.1: latents})(batch.positions if positions is None else positions, batch)


@pytest.mark.parametrize('item', VARIABLES, ids=lambda item: item['type'])
def test_gradient_agrees_with_finite_differences(item, latents):
    import torch

    batch = systems()
    positions = batch.positions.clone().requires_grad_(True)
    values = value(item, latents, batch, positions)
    # Different weights, so that the gradient of one system cannot make up for that of another.
    weights = torch.arange(1, len(values) + 1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * values).sum(), positions)

    def total(moved):
        batch.positions = moved
        return (weights * value(item, latents, batch, moved)).sum()

    expected = numerical_gradient(total, positions)
    assert abs(expected).max() > 0.1
    np.testing.assert_allclose(gradient, expected, atol=1e-6 * abs(expected).max())


@pytest.mark.parametrize('shifted', [False, True], ids=['as they are', 'wrapped otherwise'])
def test_geometry_agrees_with_ase(shifted, latents):
    some = frames()
    if shifted:  # the same crystal, an atom of it described by another image
        for atoms in some[:3]:
            atoms.positions[2] += atoms.cell[0] - 2 * atoms.cell[1]
    batch = systems(some)
    for item, method in zip(VARIABLES[:3], ('get_distance', 'get_angle', 'get_dihedral'), strict=True):
        expected = [getattr(atoms, method)(*item['atoms'], mic=True) for atoms in frames()]
        difference = value(item, latents, batch).numpy() - expected
        if item['type'] == 'dihedral':
            difference -= 360 * np.round(difference / 360)
        np.testing.assert_allclose(difference, 0, atol=1e-8)


def test_coordination_counts_all_images(latents):
    counts = []
    for atoms in frames():
        first, distances = neighbor_list('id', atoms, 3 * 2.8)
        count = (1 / (1 + (distances / 2.8) ** 6) - 1 / (1 + 3**6)) / (1 - 1 / (1 + 3**6))
        counts.append(count[np.isin(first, [0, 2])].sum() / 2)
    np.testing.assert_allclose(value(VARIABLES[3], latents, systems()), counts, atol=1e-9)


def test_coordination_counts_the_elements_that_are_named(latents):
    atoms = bulk('NaCl', 'rocksalt', a=5.64, cubic=True)
    item = {'type': 'coordination', 'radius': 3.4, 'centres': 'Na', 'width': 1}
    like, unlike = (
        float(value({**item, 'neighbours': symbol}, latents, systems([atoms]))[0]) for symbol in ('Na', 'Cl')
    )
    first, second, distances = neighbor_list('ijd', atoms, 3 * 3.4)
    count = (1 / (1 + (distances / 3.4) ** 6) - 1 / (1 + 3**6)) / (1 - 1 / (1 + 3**6))
    sodium = atoms.symbols[first] == 'Na'
    for found, symbol in ((like, 'Na'), (unlike, 'Cl')):
        assert found == pytest.approx(count[sodium & (atoms.symbols[second] == symbol)].sum() / 4)


def test_latents_are_principal_components_of_rattled_starts(forces, latents):
    """Of the copies of one start: uncorrelated, of unit variance, the first with the largest variance."""
    some = frames()[:1]
    own = Latents.of(Configurations.from_atoms(some), forces, rattle=0.1, key=[1, 0])
    copies = []
    for displacement in np.random.default_rng([1, 0, 0]).standard_normal((64, 4, 3)):
        copies.append(some[0].copy())
        copies[-1].positions += 0.1 * displacement
    descriptors = evaluate(Configurations.from_atoms(copies), forces.models[:1], batch_atoms=64).descriptors
    projected = (descriptors - own.mean) @ own.components
    np.testing.assert_allclose(np.cov(projected, rowvar=False), np.eye(projected.shape[1]), atol=1e-6)
    largest = np.linalg.eigvalsh(np.cov(descriptors, rowvar=False))[-1]
    assert 1 / np.linalg.norm(own.components[:, 0]) ** 2 == pytest.approx(largest)
    batch = systems(copies)
    np.testing.assert_allclose(value({'type': 'latent'}, own, batch).detach(), projected[:, 0], atol=1e-9)
    with pytest.raises(ValueError, match='`component` 99 does not exist'):
        value({'type': 'latent', 'component': 99}, own, batch)
