from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from aiida_mlipal.runners.explore import explore
from aiida_mlipal.runners.plans.normal_modes import displace, hessian
from aiida_mlipal.runners.trajectory import replica_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_normal_modes import NormalModesPlan
from tests.committee import copper
from tests.runners.plans.ase_forces import AseForces


def test_the_hessian_is_that_of_ase(tmp_path):
    atoms = copper(1)
    atoms.calc = EMT()
    vibrations = Vibrations(atoms, name=str(tmp_path / 'vib'), delta=0.01)
    vibrations.run()
    replica = replica_at(Configurations.from_atoms([atoms]), 0, 0)
    forces = AseForces(EMT)
    mine = hessian(replica, forces, difference=0.01, max_atoms=40)
    np.testing.assert_allclose(mine, vibrations.get_vibrations().get_hessian_2d(), atol=1e-8)
    assert forces.n_calls == 3  # 24 copies of four atoms


def test_displacements_have_the_thermal_energy():
    atoms = bulk('Cu', 'fcc', a=3.6, cubic=True)
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-4)
    lowest = atoms.get_potential_energy()
    plan = NormalModesPlan(temperatures=[50.0], n_replicas_per_temperature=2, n_frames=60)
    settings = ExplorationSettings(seed=1)
    trajectories = displace(plan, Configurations.from_atoms([atoms]), AseForces(EMT), settings, 0)
    energies = [
        Atoms(atoms.numbers, frame.positions, cell=atoms.cell, pbc=True, calculator=EMT()).get_potential_energy()
        for trajectory in trajectories
        for frame in trajectory.frames
    ]
    assert len(energies) == 120
    assert np.mean(energies) - lowest == pytest.approx(9 * units.kB * 50 / 2, rel=0.2)
    assert trajectories[0].found['n_unstable_modes'] == 0


def test_displaced_frames_of_a_committee_are_candidates(committee):
    starts = Configurations.from_atoms([copper(1), copper(2)])
    plan = {'kind': 'normal_modes', 'temperatures': [300.0], 'n_replicas_per_temperature': 3, 'n_frames': 2}
    settings = ExplorationSettings(seed=3, dtype='float64', n_stream=2, plans=[plan])
    pool, evaluation, results = explore(starts, committee, settings)
    assert pool.frame_id.tolist() == evaluation.frame_id.tolist()
    assert len(pool) == 6 - sum(item['n_frames_out_of_bounds'] for item in results['found'])
    assert len(pool) >= 4
    again, _, _ = explore(starts, committee, settings)
    assert again.frame_id.tolist() == pool.frame_id.tolist()
