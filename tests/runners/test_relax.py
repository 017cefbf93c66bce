"""Batched relaxation, against ASE's own optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from aiida_mlipal.runners.relax import relax
from aiida_mlipal.runners.trajectory import replica_at
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper
from tests.runners.plans.ase_forces import AseForces

SETTINGS = ExplorationSettings(seed=1)


def _relax(frames: list[Atoms], **changes):
    starts = Configurations.from_atoms(frames)
    options = {'converged_force': 1e-3, 'n_steps': 300, 'stride': 10, **changes}
    replicas = [replica_at(starts, row, row) for row in range(len(frames))]
    return relax(replicas, AseForces(EMT), SETTINGS, **options)


@pytest.fixture(scope='module')
def frames() -> list[Atoms]:
    molecule = Atoms('Cu3', positions=[[0, 0, 0], [2.6, 0.1, 0], [0.2, 2.3, 0.1]])
    return [copper(1, rattle=0.15), molecule, copper(2, rattle=0.2)]


@pytest.fixture(scope='module')
def relaxed(frames):
    return _relax(frames)


def test_minima_are_those_of_ase(frames, relaxed):
    for atoms, mine in zip(frames, relaxed, strict=True):
        reference = atoms.copy()
        reference.calc = EMT()
        BFGS(reference, logfile=None).run(fmax=1e-3)
        assert mine.residual <= 1e-3
        assert mine.energy == pytest.approx(reference.get_potential_energy(), abs=1e-5)
        assert not mine.reason


def test_neighbours_change_nothing(frames, relaxed):
    for atoms, mine in zip(frames, relaxed, strict=True):
        (alone,) = _relax([atoms])
        assert alone.n_steps == mine.n_steps
        np.testing.assert_allclose(alone.frames[-1].positions, mine.frames[-1].positions, atol=1e-12)


def test_frames_are_kept_each_stride_and_at_the_end(relaxed):
    for mine in relaxed:
        steps = [frame.step for frame in mine.frames]
        assert steps[:-1] == list(range(10, mine.n_steps, 10))
        assert steps[-1] == mine.n_steps


def test_what_leaves_the_bounds_ends_there_and_the_others_go_on(frames):
    overlapping = copper(3)
    overlapping.positions[1] = overlapping.positions[0] + [0.3, 0, 0]
    broken, fine = _relax([overlapping, frames[0]], stride=1)
    assert 'Å apart' in broken.reason or 'force' in broken.reason
    assert not broken.frames
    assert fine.residual <= 1e-3


def test_cells_relax_to_those_of_ase():
    frames = [copper(4, strain=0.05), copper(5, strain=0.03, repeat=(2, 1, 1))]
    for atoms, mine in zip(frames, _relax(frames, cells=True), strict=True):
        reference = atoms.copy()
        reference.calc = EMT()
        BFGS(FrechetCellFilter(reference), logfile=None).run(fmax=1e-4)
        assert mine.residual <= 1e-3
        assert mine.energy == pytest.approx(reference.get_potential_energy(), abs=1e-4)
        volume = abs(np.linalg.det(mine.frames[-1].cell))
        assert volume == pytest.approx(reference.get_volume(), rel=2e-3)
