from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from aiida_mlipal.runners.explore import explore
from aiida_mlipal.runners.plans.basin_hopping import hop
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_basin_hopping import BasinHoppingPlan, propose
from tests.committee import copper
from tests.runners.plans.ase_forces import AseForces

SETTINGS = ExplorationSettings(seed=3)


def test_the_cluster_of_seven_lennard_jones_atoms_finds_its_global_minimum():
    epsilon, sigma = 1.0, 2.5
    chain = [[0.8 * index, 2.4 * (index % 2), 2.4 * (index % 3 == 0)] for index in range(7)]
    plan = BasinHoppingPlan(
        n_walkers=2, n_hops=12, temperature=6000.0, displacement=1.3, max_steps=150, converged_force=0.01
    )
    forces = AseForces(lambda: LennardJones(epsilon=epsilon, sigma=sigma, rc=100.0))
    trajectories = hop(plan, Configurations.from_atoms([Atoms('Ar7', chain)]), forces, SETTINGS, 0)
    lowest = min(trajectory.found['lowest_energy'] for trajectory in trajectories)
    # Wales and Doye, J. Phys. Chem. A 101, 5111 (1997): -16.505384 in units of epsilon.
    assert lowest / epsilon == pytest.approx(-16.505384, abs=1e-3)


def test_swaps_keep_the_composition_and_displacements_their_size():
    numbers = np.array([29, 29, 79, 29, 79])
    positions = np.random.default_rng(1).normal(size=(5, 3))
    swaps = BasinHoppingPlan(swap_share=1.0)
    for seed in range(20):
        trial = propose(numbers, positions, swaps, np.random.default_rng(seed))
        moved = np.flatnonzero((trial != positions).any(axis=1))
        assert len(moved) == 2
        assert set(numbers[moved].tolist()) == {29, 79}
        np.testing.assert_array_equal(trial[moved], positions[moved[::-1]])
        alike = propose(numbers * 0 + 29, positions, swaps, np.random.default_rng(seed))
        assert 0 < np.abs(alike - positions).max() <= 0.4


def test_cold_walkers_only_go_down_and_order_an_alloy():
    """EMT prefers unlike neighbours in CuAu: swaps alone must lower the energy of a segregated cell."""
    atoms = bulk('Cu', 'fcc', a=3.85, cubic=True) * (2, 1, 1)
    atoms.numbers[4:] = 79
    plan = BasinHoppingPlan(n_walkers=2, n_hops=12, temperature=1.0, swap_share=1.0, max_steps=80, converged_force=0.05)
    trajectories = hop(plan, Configurations.from_atoms([atoms]), AseForces(EMT), SETTINGS, 0)
    for trajectory in trajectories:
        energies = []
        for frame in trajectory.frames:
            energies.append(Atoms(atoms.numbers, frame.positions, cell=atoms.cell, pbc=True, calculator=EMT())
                            .get_potential_energy())  # fmt: skip
        assert trajectory.found['lowest_energy'] == pytest.approx(min(energies), abs=1e-9)
        assert min(energies) < energies[0] - 0.1
        downhill, n_accepted = energies[0], 0
        for energy in energies[1:]:
            if energy <= downhill + 1e-9:
                downhill, n_accepted = energy, n_accepted + 1
        assert trajectory.found['n_accepted'] == n_accepted
    assert trajectories[0].frames[1].positions.tolist() != trajectories[1].frames[1].positions.tolist()


def test_minima_of_a_committee_are_candidates(committee):
    starts = Configurations.from_atoms([copper(1), copper(2)])
    plan = {'kind': 'basin_hopping', 'n_walkers': 2, 'n_hops': 2, 'max_steps': 15}
    settings = ExplorationSettings(seed=3, dtype='float64', n_stream=2, plans=[plan])
    pool, evaluation, results = explore(starts, committee, settings)
    assert pool.frame_id.tolist() == evaluation.frame_id.tolist()
    assert set(pool.origin.tolist()) <= {'basin_hopping', 'first_unsafe'}
    assert set(pool.temperature.tolist()) == {1000.0}
    assert pool.step.max() <= 2
    assert len(results['found']) == 2
    again, _, _ = explore(starts, committee, settings)
    assert again.frame_id.tolist() == pool.frame_id.tolist()


def test_bad_keys_are_named():
    with pytest.raises(ValueError, match='from 0 to 1'):
        ExplorationSettings(seed=1, plans=[{'kind': 'basin_hopping', 'swap_share': 2}])
    with pytest.raises(ValueError, match='Did you mean `n_hops`'):
        ExplorationSettings(seed=1, plans=[{'kind': 'basin_hopping', 'hops': 2}])
