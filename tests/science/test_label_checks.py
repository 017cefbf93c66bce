"""Checks that every label has to pass."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_checks import LabelChecks, check_labels, failed_share


@pytest.fixture(scope='module')
def strained() -> Configurations:
    """Return labelled copper cells from 6 % compressed to 6 % stretched."""
    frames = []
    for strain in np.linspace(-0.06, 0.06, 7):
        atoms = bulk('Cu', cubic=True)
        atoms.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    return Configurations.from_atoms(frames, labels=True)


def _replace_row(frames: Configurations, name: str, row: int, value: float) -> Configurations:
    column = np.array(getattr(frames, name))
    column[row] = value
    return frames.with_columns(**{name: column})


def test_good_labels_stay_as_they_are(strained):
    assert check_labels(strained, LabelChecks()) is strained
    assert failed_share(strained) == 0


@pytest.mark.parametrize(
    ('column', 'value', 'reason'),
    [
        ('energy', np.nan, 'the energy is missing'),
        ('stress', np.nan, 'the stress is missing'),
        ('scf_force_error', 0.2, 'SCF correction of the forces, 0.200 eV/Å, is above 0.05'),
    ],
)
def test_what_is_missing_or_unconverged_is_a_row_with_its_reason(strained, column, value, reason):
    checked = check_labels(_replace_row(strained, column, 3, value), LabelChecks())
    assert checked.status.tolist() == ['labelled'] * 3 + ['rejected'] + ['labelled'] * 3
    assert reason in checked.reason[3]
    assert np.isnan(checked.energy[3])
    assert np.isnan(checked.atoms(3).arrays.get('forces', np.nan)).all()
    assert failed_share(checked) == pytest.approx(1 / 7)


def test_largest_force():
    atoms = bulk('Cu', cubic=True)
    atoms.positions[0] += (0.6, 0, 0)
    atoms.calc = EMT()
    atoms.get_stress()
    frames = Configurations.from_atoms([atoms], labels=True)
    largest = np.linalg.norm(frames.forces, axis=1).max()
    assert check_labels(frames, LabelChecks(max_force=1.01 * largest)).is_labelled.all()
    checked = check_labels(frames, LabelChecks(max_force=0.99 * largest))
    assert 'the largest force' in checked.reason[0]
    assert np.isnan(checked.forces).all()


def test_net_force(strained):
    """A force of 0.5 eV/Å on each of 4 atoms has a sum of 2 and counts as an error of 1 eV/Å; E0s are spared."""
    pushed = strained.with_columns(forces=strained.forces + np.array([0.0, 0.0, 0.5]))
    checked = check_labels(pushed, LabelChecks())
    assert not checked.is_labelled.any()
    assert checked.reason[0] == (
        'the sum of the forces over the square root of the number of atoms, 1.00 eV/Å, is above 0.5 eV/Å: '
        'use a finer grid'
    )
    assert check_labels(pushed, LabelChecks(max_net_force=1.01)).is_labelled.all()
    assert check_labels(pushed.with_columns(role=['isolated_atom'] * 7), LabelChecks()).is_labelled.all()


def test_stress_is_needed_only_where_there_is_one(strained):
    without = strained.with_columns(stress=np.full((7, 6), np.nan))
    assert not check_labels(without, LabelChecks()).is_labelled.any()
    assert check_labels(without, LabelChecks(require_stress=False)).is_labelled.all()
    molecule = without.with_columns(pbc=np.zeros((7, 3), dtype=bool))
    assert check_labels(molecule, LabelChecks()).is_labelled.all()


def test_a_code_with_the_other_sign_of_stress_is_found(strained):
    checked = check_labels(strained.with_columns(stress=-strained.stress), LabelChecks())
    assert not checked.is_labelled.any()
    assert 'the wrong sign' in checked.reason[0]


def test_another_magnetic_state_is_a_jump(strained):
    moments = np.full(7, 8.8)  # 2.2 µB per atom
    moments[2] = -8.8  # the same state, upside down
    moments[4] = 0.1
    checked = check_labels(strained.with_columns(magnetization=moments), LabelChecks())
    assert np.flatnonzero(~checked.is_labelled).tolist() == [4]
    assert '0.03 µB per atom, where 2.20 is usual' in checked.reason[4]


def test_energy_outlier_against_the_committee_beyond_a_common_shift(strained):
    expected = dict(zip(strained.frame_id.tolist(), (strained.energy - 40.0).tolist(), strict=True))
    assert check_labels(strained, LabelChecks(), expected).is_labelled.all()
    expected[str(strained.frame_id[5])] += 8.0  # 2 eV per atom
    checked = check_labels(strained, LabelChecks(), expected)
    assert np.flatnonzero(~checked.is_labelled).tolist() == [5]
    assert '-2.00 eV per atom' in checked.reason[5]


def test_isolated_atoms_do_not_count_as_failed(strained):
    roles = ['isolated_atom'] + ['train'] * 6
    frames = strained.with_columns(role=roles, status=['rejected'] + ['labelled'] * 6)
    assert failed_share(frames) == 0


@pytest.mark.parametrize(
    'setting', [{'max_force': 0}, {'max_net_force': -1}, {'max_failed_share': 1.5}, {'require_stress': 'no'}]
)
def test_impossible_thresholds_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        LabelChecks(**setting)
