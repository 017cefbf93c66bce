"""Nudged elastic bands, against ASE's own and against a saddle that symmetry gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.mep import NEB
from ase.optimize import BFGS, FIRE

from aiida_mlipal.runners.explore import explore
from aiida_mlipal.runners.plans.neb import find_path
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.runners.plans.ase_forces import AseForces


def _relaxed(atoms: Atoms, fmax: float = 0.005) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=fmax)
    return atoms


@pytest.fixture(scope='module')
def vacancy() -> tuple[Atoms, Atoms]:
    """A vacancy before and after a nearest neighbour jumped into it."""
    crystal = bulk('Cu', 'fcc', a=3.6, cubic=True) * (2, 2, 2)
    empty = crystal.positions[0].copy()
    neighbour = int(np.argsort(crystal.get_distances(0, range(len(crystal)), mic=True))[1])
    initial = crystal.copy()
    vector = crystal.get_distance(neighbour, 0, mic=True, vector=True)
    final = crystal.copy()
    final.positions[neighbour] += vector
    np.testing.assert_allclose((final.positions[neighbour] - empty) @ np.linalg.inv(crystal.cell.array) % 1 % 1, 0,
                               atol=1e-9)  # fmt: skip
    del initial[0], final[0]
    return _relaxed(initial), _relaxed(final)


def test_the_saddle_of_a_vacancy_is_that_of_ase_and_of_symmetry(vacancy):
    initial, final = vacancy
    n_images = 5
    forces = AseForces(EMT)
    band = find_path(initial, final, forces, n_images=n_images, n_steps=200, converged_force=0.02)
    assert band.residual <= 0.02
    assert forces.n_calls <= band.n_steps + 1  # one call for all images

    images = [initial.copy() for _ in range(n_images + 1)] + [final.copy()]
    for image in images:
        image.calc = EMT()
    reference = NEB(images, climb=True, method='improvedtangent')
    reference.interpolate('idpp', mic=True)
    for image, start in zip(images, band.interpolated, strict=True):
        np.testing.assert_allclose(start.positions, image.positions, atol=1e-6)
    FIRE(reference, logfile=None).run(fmax=0.02)
    energies = [image.get_potential_energy() for image in images]
    assert band.barrier == pytest.approx(max(energies) - energies[0], abs=1e-3)

    # Half way between two equal vacancies, with the jumping atom held on the plane between them, is the saddle.
    moved = int(np.argmax(np.linalg.norm(final.positions - initial.positions, axis=1)))
    middle = initial.copy()
    middle.positions = (initial.positions + final.positions) / 2
    middle = _relaxed(middle, fmax=0.002)
    saddle = band.images[band.saddle]
    assert band.barrier == pytest.approx(middle.get_potential_energy() - initial.get_potential_energy(), abs=0.02)
    np.testing.assert_allclose(saddle.positions[moved], middle.positions[moved], atol=0.05)
    assert band.barrier > 0.3


def test_end_points_that_do_not_belong_together_are_refused(vacancy):
    from aiida_mlipal.science.plan_neb import check_path

    initial, final = vacancy
    assert check_path(initial, final) == ''
    shuffled = final[np.r_[1, 0, 2 : len(final)]]
    assert 'different order: sort the second so that atom 0 (now 1), 1 (now 0)' in check_path(initial, shuffled)
    assert 'give the same atoms in the same order' in check_path(initial, final[1:])
    gold = final.copy()
    gold.numbers[3] = 79
    assert 'give the same atoms in the same order' in check_path(initial, gold)
    strained = final.copy()
    strained.cell[0, 0] += 0.1
    assert 'their cells differ' in check_path(initial, strained)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'ends': [[0, 0]]}, 'from row 0 to itself'),
        ({'ends': [0, 1]}, 'list of pairs of rows'),
        ({'ends': [[0, -1]]}, 'at least 0'),
        ({'n_images': 0}, 'at least 1'),
        ({'images': 3}, 'Did you mean `n_images`'),
    ],
)
def test_bad_keys_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ExplorationSettings(seed=1, plans=[{'kind': 'neb', **changes}])


def test_images_of_a_committee_are_candidates_the_saddle_first(committee, vacancy):
    small = bulk('Cu', 'fcc', a=3.6, cubic=True)
    initial, final = small[1:], small[1:]
    final.positions[0] = small.positions[0]
    starts = Configurations.from_atoms([initial, final], reference_cell=np.eye(3) * 7)
    settings = ExplorationSettings(
        seed=1, dtype='float64', n_stream=2, max_candidates=3,
        plans=[{'kind': 'neb', 'n_images': 3, 'max_steps': 60, 'converged_force': 0.1}],
    )  # fmt: skip
    pool, evaluation, results = explore(starts, committee, settings)
    assert pool.frame_id.tolist() == evaluation.frame_id.tolist()
    assert set(pool.role.tolist()) == {'candidate'}  # a path is not what a user of the potential meets
    assert pool.origin.tolist()[0] == 'saddle'
    assert (pool.origin == 'saddle').sum() == 1
    assert len(pool) == 3
    assert results['n_visited'] == 5 + 3
    assert set(pool.parent.tolist()) == {starts.frame_id[0]}
    (found,) = results['found']
    assert found['converged']
    # By symmetry the path is the same both ways.
    assert found['barrier'] == pytest.approx(found['barrier_back'], abs=0.02)
    everything, _, _ = explore(starts, committee, replace(settings, max_candidates=100))
    assert everything.origin.tolist() == ['saddle', *['neb'] * 4, *['interpolated'] * 3]
    assert everything.step[5:].tolist() == [1, 2, 3]
    again, _, _ = explore(starts, committee, settings)
    assert again.frame_id.tolist() == pool.frame_id.tolist()


def test_rows_that_are_not_there_are_refused(committee, vacancy):
    starts = Configurations.from_atoms(list(vacancy))
    settings = ExplorationSettings(seed=1, plans=[{'kind': 'neb', 'ends': [[0, 2]]}])
    with pytest.raises(ValueError, match='`ends` names row 2, but there are only 2 starts'):
        explore(starts, committee, settings)
