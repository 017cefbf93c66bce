from __future__ import annotations

import builtins

import numpy as np
import pytest
from ase import Atoms

from aiida_mlipal.runners.bias.collective_variables import make_variable
from aiida_mlipal.runners.bias.metadynamics import Metadynamics
from aiida_mlipal.runners.bias.plumed import PlumedBias, check_kernel
from aiida_mlipal.runners.main import SettingsRefused
from aiida_mlipal.runners.motion.moving import Langevin
from aiida_mlipal.science.plan_metadynamics import MetadynamicsPlan
from aiida_mlipal.science.plan_plumed import PlumedPlan
from tests.runners.bias.frames import frames, replica
from tests.runners.bias.test_metadynamics import DoubleWell, Nothing

UNITS = 'UNITS LENGTH=A ENERGY=eV'


def test_restraint_is_that_of_the_formula(plumed_kernel, tmp_path):
    """0.5 k (d - d0)² of each replica, with its forces; PLUMED's own units are not in the way."""
    plan = PlumedPlan(input=[UNITS, 'd: DISTANCE ATOMS=1,4', 'RESTRAINT ARG=d AT=2.0 KAPPA=3.0'])
    some = frames()
    batch = Langevin(
        [replica(index, atoms) for index, atoms in enumerate(some)], PlumedBias(Nothing(), plan, tmp_path),
        time_step=1.0, friction=0.01, key=[1, 0],
    )  # fmt: skip
    for atoms, energy, forces in zip(some, batch.energies.tolist(), batch.split(batch.forces), strict=True):
        vector = atoms.get_distance(0, 3, mic=True, vector=True)
        distance = np.linalg.norm(vector)
        assert energy == pytest.approx(0.5 * 3.0 * (distance - 2.0) ** 2)
        expected = np.zeros_like(forces)
        expected[0] = 3.0 * (distance - 2.0) * vector / distance
        expected[3] = -expected[0]
        np.testing.assert_allclose(forces, expected, rtol=1e-6, atol=1e-9)  # its electronvolt is an older one
    assert (tmp_path / 'plumed-r000' / 'plumed.log').exists()


def test_metadynamics_of_plumed_is_ours(plumed_kernel, tmp_path):
    """The same hills at the same steps: an independent check of heights and forces.

    PLUMED cuts its Gaussians off at exp(-6.25) and stretches them accordingly, by 0.2 %.
    """
    atoms = Atoms('H2', positions=[[0, 0, 0], [1.6, 0, 0]])
    ours = MetadynamicsPlan(
        variables=[{'type': 'distance', 'atoms': [0, 1], 'width': 0.1}], height=0.05, bias_factor=6.0
    )
    lines = [UNITS, 'd: DISTANCE ATOMS=1,2', 'METAD ARG=d SIGMA=0.1 HEIGHT=0.05 BIASFACTOR=6 PACE=5', 'FLUSH STRIDE=1']
    hills = Metadynamics(DoubleWell(), [make_variable(item, {}) for item in ours.read_variables()], ours)
    theirs = PlumedBias(DoubleWell(), PlumedPlan(input=lines), tmp_path)
    ends = []
    for forces in (hills, theirs):
        batch = Langevin([replica(0, atoms, 300.0)], forces, time_step=1.0, friction=0.02, key=[3, 0])
        for _ in range(10):
            batch.start_block(5)
            for _ in range(5):
                batch.step()
                batch.steps = batch.steps + 1
            if forces is hills:
                hills.deposit(batch)
            else:
                batch.evaluate()  # as when another replica comes into the batch: no second hill
        ends.append(batch.positions.numpy().copy())
    rows = np.loadtxt(tmp_path / 'plumed-r000' / 'HILLS')
    own = hills.hills(0)
    np.testing.assert_allclose(rows[:, 1], np.array(own['centres'])[:, 0], atol=5e-3)
    # PLUMED writes heights times bias factor / (bias factor - 1).
    np.testing.assert_allclose(rows[:, 3] * 5 / 6, own['heights'], rtol=0.02)
    assert own['heights'][-1] < 0.045  # tempered
    np.testing.assert_allclose(ends[0], ends[1], atol=5e-3)


def test_machine_without_plumed_is_told_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == 'plumed':
            raise ModuleNotFoundError("No module named 'plumed'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(SettingsRefused, match='conda install -c conda-forge plumed py-plumed'):
        check_kernel()
