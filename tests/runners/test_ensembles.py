"""Each ensemble against theory, on a model whose partition function is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import units

from aiida_mlipal.runners.motion.barostat import Barostat
from aiida_mlipal.runners.motion.moving import Langevin, Moving, VelocityVerlet
from aiida_mlipal.runners.motion.nose_hoover import NoseHoover
from tests.runners.springs import BULK_MODULUS, VOLUME, Springs, replica

COMMON = {'friction': 0.05, 'key': [7, 0]}


def sample(batch: Moving, n_blocks: int, block: int, measure: Callable[[Moving], object]) -> np.ndarray:
    """Return what ``measure`` finds after each block, the first third aside."""
    found = []
    for _ in range(n_blocks):
        batch.start_block(block)
        for _ in range(block):
            batch.step()
        batch.steps = batch.steps + block
        found.append(np.array(measure(batch)))
    return np.array(found[n_blocks // 3 :])


def test_forces_and_stress_of_the_model_are_derivatives_of_its_energy():
    import torch

    from aiida_mlipal.runners.systems import Systems

    springs = Springs(quartic=3.0)
    systems = Systems([replica(0), replica(1)])
    systems.positions = systems.positions + 0.2 * torch.randn(
        systems.positions.shape, generator=torch.Generator().manual_seed(0)
    )
    _, forces, stresses = springs(systems, stress=True)
    moved = systems.positions.clone()
    for atom, axis in ((2, 0), (11, 1)):
        energies = []
        for sign in (1, -1):
            systems.positions = moved.clone()
            systems.positions[atom, axis] += sign * 1e-4
            energies.append(float(springs(systems).energies.sum()))
        assert float(forces[atom, axis]) == pytest.approx((energies[1] - energies[0]) / 2e-4, abs=1e-6)
    for row, column in ((0, 0), (0, 1)):
        energies, cells = [], systems.cells.clone()
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += sign * 1e-5
            factor = torch.tensor(strain)
            systems.positions, systems.cells = moved @ factor, cells @ factor
            energies.append(float(springs(systems).energies[0]))
        systems.cells = cells
        assert float(stresses[0, row, column]) * VOLUME == pytest.approx((energies[0] - energies[1]) / 2e-5, abs=1e-5)


@pytest.mark.parametrize('full_cell', [False, True])
@pytest.mark.parametrize('pressure', [-5.0, 5.0])
def test_barostat_gives_the_volume_of_the_equation_of_state(full_cell, pressure):
    """Mean and variance of the volume, and the temperature, within four standard errors (100 steps decorrelate)."""
    n_replicas, temperature = 48, 600.0
    batch = Barostat(
        [replica(index, temperature, pressure * units.GPa) for index in range(n_replicas)],
        Springs(),
        time_step=1.0,
        full_cell=full_cell,
        barostat_time=50.0,
        compressibility=0.01,
        **COMMON,
    )
    found = sample(batch, 9, 100, lambda moving: [moving.volumes().tolist(), moving.temperatures().tolist()])
    volumes, temperatures = found[:, 0].ravel(), found[:, 1].ravel()
    variance = units.kB * temperature * VOLUME / BULK_MODULUS
    n = len(volumes)
    assert volumes.mean() == pytest.approx(
        VOLUME * (1 - pressure * units.GPa / BULK_MODULUS), abs=4 * np.sqrt(variance / n)
    )
    assert volumes.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / n))
    assert temperatures.mean() == pytest.approx(temperature, rel=4 * np.sqrt(2 / 21 / n))
    shear = np.abs(batch.cells.numpy()[:, [0, 1, 2], [1, 2, 0]]).max()
    assert (shear > 0.01) if full_cell else (shear == 0)
    if not full_cell:
        sides = np.linalg.norm(batch.cells.numpy(), axis=2)
        np.testing.assert_allclose(sides, sides[:, :1].repeat(3, axis=1))


def test_ideal_gas_has_the_volume_of_its_law():
    """Mean volume ``N kT / P`` and variance ``N (kT / P)^2`` for a total momentum of zero."""
    n_replicas, temperature, heat = 128, 600.0, units.kB * 600.0
    pressure = 8 * heat / VOLUME
    batch = Barostat(
        [replica(index, temperature, pressure) for index in range(n_replicas)],
        Springs(stiffness=0.0, bulk_modulus=0.0),
        time_step=1.0,
        full_cell=False,
        barostat_time=100.0,
        compressibility=units.GPa / pressure,  # relaxes within 100 steps
        **COMMON,
    )
    volumes = sample(batch, 9, 100, lambda moving: moving.volumes().tolist()).ravel()
    n = len(volumes) / 2  # successive ones are correlated by a third
    assert volumes.mean() == pytest.approx(VOLUME, rel=4 * np.sqrt(1 / 8 / n))
    assert volumes.var() == pytest.approx(VOLUME**2 / 8, rel=4 * np.sqrt(4 / n))


@pytest.mark.parametrize('kind', [Langevin, NoseHoover])
def test_baths_give_the_temperature_and_its_fluctuations(kind):
    temperature = 400.0
    replicas = [replica(index, temperature) for index in range(48)]
    batch = kind(replicas, Springs(quartic=20.0), time_step=2.0, **COMMON)
    found = sample(batch, 9, 60, lambda moving: moving.temperatures().tolist()).ravel()
    n = len(found) / 2  # taking every second for independent is on the safe side
    assert found.mean() == pytest.approx(temperature, rel=4 * np.sqrt(2 / 21 / n))
    assert found.std() == pytest.approx(temperature * np.sqrt(2 / 21), rel=4 * np.sqrt(1 / 2 / n))


@pytest.mark.parametrize(('kind', 'conserved'), [
    (VelocityVerlet, lambda batch: batch.energies + batch.kinetic_energies()),
    (NoseHoover, lambda batch: batch.conserved()),
])  # fmt: skip
def test_conserved_energy_has_an_error_of_second_order(kind, conserved):
    spread = []
    for time_step in (4.0, 2.0):
        batch = kind([replica(index) for index in range(8)], Springs(quartic=20.0), time_step=time_step, **COMMON)
        values = []
        for _ in range(int(600 / time_step)):
            batch.step()
            values.append(conserved(batch).tolist())
        spread.append(np.std(values, axis=0).mean())
    assert spread[1] < 5e-3
    assert 3 < spread[0] / spread[1] < 5.5


def test_deformation_follows_its_rate():
    strain = np.zeros((3, 3))
    strain[0, 0], strain[0, 1], strain[1, 0] = 1e-3, 5e-4, 5e-4
    batch = Langevin([replica(0)], Springs(), time_step=1.0, strain=strain, **COMMON)
    batch.start_block(40)
    for _ in range(40):
        batch.step()
    from scipy.linalg import expm

    np.testing.assert_allclose(batch.cells[0], replica(0).cell @ expm(40 * strain), atol=1e-12)
    scaled = batch.positions.numpy() @ np.linalg.inv(batch.cells[0].numpy())
    assert np.abs(scaled - replica(0).positions @ np.linalg.inv(replica(0).cell)).max() < 0.2  # atoms went along


def test_barostat_that_runs_away_is_named():
    batch = Barostat(
        [replica(0, pressure=0.0), replica(1, pressure=1e5 * units.GPa)],
        Springs(), time_step=1.0, full_cell=True, barostat_time=50.0, compressibility=0.01, **COMMON,
    )  # fmt: skip
    batch.start_block(1)
    batch.step()
    assert list(batch.runaways()) == [1]
    assert 'the barostat ran away' in batch.runaways()[1]
    assert np.isfinite(batch.positions.numpy()).all()
