"""Metadynamics on two atoms whose potential, and so whose free energy, is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units

from aiida_mlipal.runners.bias.collective_variables import make_variable
from aiida_mlipal.runners.bias.metadynamics import Metadynamics
from aiida_mlipal.runners.forces import Prediction
from aiida_mlipal.runners.motion.moving import Langevin
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.science.plan_metadynamics import MetadynamicsPlan, free_energy
from tests.runners.bias.frames import frames, numerical_gradient, replica

BARRIER, MIDDLE, HALF = 0.35, 2.0, 0.4  # eV, Å, Å: minima at 1.6 and 2.4 Å


class DoubleWell:
    """Two atoms with energy BARRIER (x² - 1)², x = (distance - MIDDLE) / HALF."""

    device = 'cpu'

    def __call__(self, systems, *, stress=False) -> Prediction:
        import torch

        pairs = systems.positions.reshape(-1, 2, 3)
        bonds = pairs[:, 1] - pairs[:, 0]
        distances = torch.linalg.vector_norm(bonds, dim=1)
        x = (distances - MIDDLE) / HALF
        slope = 4 * BARRIER * x * (x**2 - 1) / HALF
        pull = (slope / distances)[:, None] * bonds
        return Prediction(BARRIER * (x**2 - 1) ** 2, torch.stack([pull, -pull], dim=1).reshape(-1, 3))

    def state(self, systems) -> dict:
        return {}

    def restore(self, systems, state) -> None:
        pass


class Nothing(DoubleWell):
    """No forces."""

    def __call__(self, systems, *, stress=False) -> Prediction:
        return Prediction(systems.positions.new_zeros(len(systems.replicas)), 0 * systems.positions)


def plan(*variables, **keys) -> MetadynamicsPlan:
    return MetadynamicsPlan(variables=list(variables), **keys)


def biased(forces, chosen: MetadynamicsPlan) -> Metadynamics:
    return Metadynamics(forces, [make_variable(variable, {}) for variable in chosen.read_variables()], chosen)


DISTANCE = {'type': 'distance', 'atoms': [0, 1], 'width': 0.06}


def test_known_barrier_is_found():
    """14 k_B T high, it is not passed without the bias. The free energy is V - 2 k_B T log d: shells have volumes."""
    temperature, chosen = 300.0, plan(DISTANCE, height=0.012, bias_factor=12.0)
    atoms = Atoms('H2', positions=[[0, 0, 0], [MIDDLE - HALF, 0, 0]])
    replicas = [replica(index, atoms, temperature) for index in range(8)]

    def run(forces, n_blocks, deposit) -> list[np.ndarray]:
        batch = Langevin(replicas, forces, time_step=1.0, friction=0.05, key=[4, 0])
        distances = []
        for _ in range(n_blocks):
            batch.start_block(20)
            for _ in range(20):
                batch.step()
                batch.steps = batch.steps + 1
            deposit(batch)
            pairs = batch.positions.numpy().reshape(-1, 2, 3)
            distances.append(np.linalg.norm(pairs[:, 1] - pairs[:, 0], axis=1))
        return distances

    assert np.max(run(DoubleWell(), 100, lambda batch: None)) < MIDDLE
    forces = biased(DoubleWell(), chosen)
    assert np.max(run(forces, 500, forces.deposit)) > MIDDLE + HALF
    grid = np.linspace(1.5, 2.5, 201)
    x = (grid - MIDDLE) / HALF
    expected = BARRIER * (x**2 - 1) ** 2 - 2 * units.kB * temperature * np.log(grid)
    found = []
    for item in replicas:
        hills = forces.hills(item.index)
        found.append(
            free_energy(
                grid[:, None], np.array(hills['centres']), np.array(hills['heights']), np.array([0.06]),
                bias_factor=chosen.bias_factor,
            )
        )  # fmt: skip
    mean = np.mean(found, axis=0)

    def barrier(energies):
        top = energies[abs(grid - MIDDLE) < 0.15].max()
        return np.array([top - energies[grid < MIDDLE].min(), top - energies[grid > MIDDLE].min()])

    np.testing.assert_allclose(barrier(mean), barrier(expected), atol=0.02)
    assert abs((mean - mean.mean()) - (expected - expected.mean())).max() < 0.04


def test_hills_are_tempered():
    """Without motion hills lie on one another: w_n = height exp(-sum of those before / (k_B (bias_factor - 1) T))."""
    atoms = Atoms('H2', positions=[[0, 0, 0], [1.0, 0, 0]])
    forces = biased(Nothing(), plan(DISTANCE, height=0.1, bias_factor=5.0))
    batch = Systems([replica(0, atoms, 300.0), replica(1, atoms, 900.0)])
    for _ in range(6):
        forces.deposit(batch)
    for index, temperature in ((0, 300.0), (1, 900.0)):
        expected: list[float] = []
        for _ in range(6):
            expected.append(0.1 * np.exp(-sum(expected) / (units.kB * temperature * 4)))
        hills = forces.hills(index)
        np.testing.assert_allclose(hills['heights'], expected)
        np.testing.assert_allclose(hills['centres'], np.ones((6, 1)))
        assert float(forces(batch).energies[index]) == pytest.approx(sum(expected))


def test_forces_of_hills_agree_with_finite_differences():
    """Also where replicas have different numbers of hills, and across the ends of a period."""
    chosen = plan(
        {'type': 'distance', 'atoms': [0, 1], 'width': 0.3},
        {'type': 'dihedral', 'atoms': [0, 1, 2, 3], 'width': 30.0},
        height=0.5,
    )
    forces = biased(Nothing(), chosen)
    batch = Systems([replica(index, atoms) for index, atoms in enumerate(frames())])
    rng = np.random.default_rng(1)
    start = batch.positions.clone()
    for n_left in (4, 3, 2):
        some = Systems([replica(index, atoms) for index, atoms in enumerate(frames()[:n_left])])
        some.positions = some.positions + 0.1 * some.tensor(rng.normal(size=some.positions.shape))
        forces.deposit(some)

    def energy(positions):
        batch.positions = positions
        return forces(batch).energies.sum()

    expected = -numerical_gradient(energy, start)
    batch.positions = start
    assert abs(expected).max() > 0.01
    np.testing.assert_allclose(forces(batch).forces, expected, atol=1e-7)


def test_hill_acts_across_the_end_of_a_period():
    def molecule(dihedral: float) -> Atoms:
        atoms = Atoms('H4', positions=[[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0]])
        atoms.set_dihedral(0, 1, 2, 3, dihedral, indices=[3])
        return atoms

    forces = biased(Nothing(), plan({'type': 'dihedral', 'atoms': [0, 1, 2, 3], 'width': 10.0}, height=1.0))
    forces.deposit(Systems([replica(0, molecule(179.0))]))
    for dihedral, distance in ((179.0, 0.0), (-179.0, 2.0), (-171.0, 10.0)):
        energy = float(forces(Systems([replica(0, molecule(dihedral))])).energies[0])
        assert energy == pytest.approx(np.exp(-0.5 * (distance / 10) ** 2), rel=1e-6)
