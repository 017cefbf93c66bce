from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units

from aiida_mlipal.runners.forces import Prediction
from aiida_mlipal.runners.motion.exchange import Exchange, swaps
from aiida_mlipal.runners.motion.moving import Langevin
from tests.runners.bias.frames import replica


def test_swaps_keep_canonical_populations():
    """Two levels 0 and GAP on three rungs. Levels move only by swaps and by a move at the hottest rung.

    If swaps obey detailed balance, each rung has the Boltzmann population of its own temperature.
    """
    gap, temperatures = 0.05, [200.0, 400.0, 900.0]
    rng = np.random.default_rng(2)
    levels = np.zeros(3, dtype=int)
    n_steps = 60000
    counts, flows = np.zeros(3), np.zeros((8, 8))
    for step in range(n_steps):
        hot = 1 - levels[2]  # Metropolis at the hottest rung only
        if rng.random() < np.exp(-gap * (hot - levels[2]) / (units.kB * temperatures[2])):
            levels[2] = hot
        before = int(levels @ [4, 2, 1])
        for lower, upper, accepted in swaps(
            (gap * levels).tolist(), temperatures, rng.random(3).tolist(), step % 2 == 1
        ):
            if accepted:
                levels[[lower, upper]] = levels[[upper, lower]]
        flows[before, int(levels @ [4, 2, 1])] += 1
        counts += levels
    boltzmann = np.exp(-gap / (units.kB * np.array(temperatures)))
    np.testing.assert_allclose(counts / n_steps, boltzmann / (1 + boltzmann), atol=0.012)
    # As many swaps lead from one state to another as back: detailed balance, within four standard errors.
    forth, back = flows[np.triu_indices(8, 1)], flows.T[np.triu_indices(8, 1)]
    assert (abs(forth - back) <= 4 * np.sqrt(forth + back + 1)).all()
    assert forth.sum() > 1000


def test_probability_is_that_of_the_source():
    temperatures, energies = [300.0, 500.0], [0.1, 0.3]
    expected = np.exp((1 / 300 - 1 / 500) / units.kB * (0.1 - 0.3))
    draws = np.random.default_rng(1).random(4000)
    accepted = np.mean([swaps(energies, temperatures, [draw, 0], odd=False)[0][2] for draw in draws])
    assert accepted == pytest.approx(expected, abs=0.02)
    assert swaps(energies[::-1], temperatures, [0.999, 0], odd=False) == [(0, 1, True)]
    assert swaps([0.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5, odd=True) == [(1, 2, True), (3, 4, True)]


class Spring:
    """Two atoms on a spring without a natural length: each of three directions is a harmonic oscillator."""

    device = 'cpu'

    def __call__(self, systems, *, stress=False) -> Prediction:
        import torch

        pairs = systems.positions.reshape(-1, 2, 3)
        bonds = pairs[:, 1] - pairs[:, 0]
        return Prediction(0.5 * (bonds**2).sum(dim=1), torch.stack([bonds, -bonds], dim=1).reshape(-1, 3))

    def state(self, systems) -> dict:
        return {}

    def restore(self, systems, state) -> None:
        pass


def test_oscillators_stay_canonical_at_each_temperature():
    """Of the energy 0.5 r² in three directions the mean is 1.5 k_B T and the variance 1.5 (k_B T)²."""
    temperatures = [300.0, 390.0, 510.0, 660.0]
    ladders = [[4 * ladder + rung for rung in range(4)] for ladder in range(60)]
    atoms = Atoms('H2', positions=[[0, 0, 0], [0.2, 0, 0]])
    replicas = [replica(index, atoms, temperatures[index % 4]) for ladder in ladders for index in ladder]
    batch = Langevin(replicas, Spring(), time_step=1.0, friction=0.1, key=[7, 0])
    exchange, n_swapped = Exchange(ladders, 15, [7, 0]), 0
    energies = {temperature: [] for temperature in temperatures}
    kinetic = {temperature: [] for temperature in temperatures}
    for block in range(60):
        batch.start_block(15)
        for _ in range(15):
            batch.step()
            batch.steps = batch.steps + 1
        before = batch.targets.clone()
        exchange(batch)
        n_swapped += int((batch.targets != before).sum())
        assert sorted(batch.targets.tolist()) == sorted(temperatures * 60)
        if block >= 10:
            for target, energy, speed in zip(
                batch.targets.tolist(), batch.energies.tolist(), batch.kinetic_energies().tolist(), strict=True
            ):
                energies[target].append(energy)
                kinetic[target].append(speed)
    # In turns all four and the two in the middle try.
    assert 0.3 < n_swapped / (60 * 60 * 3) < 0.95
    for temperature in temperatures:
        thermal = units.kB * temperature
        assert np.mean(energies[temperature]) == pytest.approx(1.5 * thermal, rel=0.05)
        assert np.var(energies[temperature]) == pytest.approx(1.5 * thermal**2, rel=0.12)
        assert np.mean(kinetic[temperature]) == pytest.approx(1.5 * thermal, rel=0.05)


def test_ladder_goes_on_without_one_that_ended():
    temperatures = [300.0, 400.0, 500.0]
    atoms = Atoms('H2', positions=[[0, 0, 0], [0.2, 0, 0]])
    batch = Langevin(
        [replica(index, atoms, temperature) for index, temperature in enumerate(temperatures)],
        Spring(), time_step=1.0, friction=0.1, key=[7, 0],
    )  # fmt: skip
    exchange = Exchange([[0, 1, 2]], 5, [7, 0])
    batch.keep([0, 2])
    seen = []
    for _ in range(12):
        batch.start_block(5)
        for _ in range(5):
            batch.step()
            batch.steps = batch.steps + 1
        exchange(batch)
        seen.append(tuple(batch.targets.tolist()))
    assert set(seen) == {(300.0, 500.0), (500.0, 300.0)}
