"""A trained model of silicon, in double precision, conserves the energy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from scipy.stats import t

from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.motion.moving import VelocityVerlet
from aiida_mlipal.runners.trajectory import Replica


def slopes(model, n_replicas: int, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes in eV/atom/ps of the energies of replicas at 300 K with a time step of 1 fs, and temperatures.

    They begin with twice the kinetic energy of 300 K, half of which becomes potential energy.
    """
    atoms = bulk('Si', cubic=True)
    batch = VelocityVerlet(
        [
            Replica(
                index=index, numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc,
                temperature=600.0,
            )
            for index in range(n_replicas)
        ],
        MaceForces([model]), time_step=1.0, friction=0.01, key=[11, 0],
    )  # fmt: skip
    energies, temperatures = [], []
    for _ in range(n_steps):
        batch.step()
        energies.append((batch.energies + batch.kinetic_energies()).numpy() / len(atoms))
        temperatures.append(batch.temperatures().numpy())
    times = np.arange(n_steps) * 1e-3
    assert np.ptp(np.array(energies), axis=0).min() > 1e-7  # something moves
    return np.polyfit(times, np.array(energies), 1)[0], np.mean(temperatures, axis=0)


def upper_bound(values: np.ndarray) -> float:
    """Return the upper 95 % bound of the absolute mean of independent values."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(abs(values.mean()) + t.ppf(0.975, len(values) - 1) * error)


def test_energy_does_not_drift_in_a_short_run(silicon_model):
    found, temperatures = slopes(silicon_model, 8, 250)
    assert 200 < temperatures.mean() < 420
    assert upper_bound(found) < 1e-4, found


@pytest.mark.long
def test_energy_does_not_drift_in_ten_picoseconds(silicon_model):
    found, temperatures = slopes(silicon_model, 8, 10_000)
    assert 250 < temperatures.mean() < 350
    assert upper_bound(found) < 1e-5, found
