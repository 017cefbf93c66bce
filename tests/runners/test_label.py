import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from aiida_mlipal.runners.label import label
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_settings import LabelSettings
from tests.committee import copper


def test_forces_and_stress_are_derivatives_of_the_energy():
    """Central differences of the labels themselves, for two calculators."""
    for calculator, parameters, atoms in (
        ('emt', {}, copper(1)),
        ('ase.calculators.lj.LennardJones', {'sigma': 2.2, 'epsilon': 0.4, 'rc': 5.0, 'smooth': True}, copper(2)),
    ):
        settings = LabelSettings(calculator=calculator, parameters=parameters)
        shifted = []
        for h in (1e-4, -1e-4):
            moved, strained = atoms.copy(), atoms.copy()
            moved.positions[1, 2] += h
            strained.set_cell(atoms.cell.array * [1, 1 + h, 1], scale_atoms=True)
            shifted += [moved, strained]
        labels = label(Configurations.from_atoms([atoms, *shifted]), settings)
        assert labels.is_labelled.all()
        energy = labels.energy
        assert labels.forces[1, 2] == pytest.approx(-(energy[1] - energy[3]) / 2e-4, abs=1e-4)
        assert labels.stress[0, 1] == pytest.approx((energy[2] - energy[4]) / 2e-4 / atoms.get_volume(), abs=1e-5)


def test_frame_that_fails_is_a_row_with_its_reason():
    nobody = Atoms('Xe2', positions=[[0, 0, 0], [0, 0, 3]])
    frames = Configurations.from_atoms([copper(1), nobody, copper(2)])
    labels = label(frames, LabelSettings(calculator='emt'))
    assert labels.frame_id.tolist() == frames.frame_id.tolist()
    assert labels.status.tolist() == ['labelled', 'rejected', 'labelled']
    assert 'Xe' in labels.reason[1]
    assert np.isnan(labels.energy[1])
    assert np.isnan(labels.forces[4:6]).all()


def test_open_shells_and_charges_reach_the_calculator():
    pytest.importorskip('tblite')
    frames = Configurations.from_atoms(
        [molecule('CH2_s1A1d'), molecule('CH2_s1A1d'), molecule('H2O'), molecule('H2O')],
        multiplicity=[1, 3, 1, 2],
        charge=[0, 0, 0, 1],
    )
    parameters = {'method': 'GFN2-xTB', 'spin_polarization': 1.0, 'verbosity': 0}
    labels = label(frames, LabelSettings(calculator='tblite', parameters=parameters))
    singlet, triplet, water, cation = labels.energy
    assert triplet < singlet  # methylene is a triplet
    assert 10 < cation - water < 20  # the ionisation energy of water is 12.6 eV
    assert np.isnan(labels.stress).all()


def test_parameter_that_the_class_does_not_know():
    """ASE's calculators would take it without a word."""
    settings = LabelSettings(calculator='lj', parameters={'epsilom': 1.0})
    with pytest.raises(ValueError, match='Did you mean `epsilon`'):
        label(Configurations.from_atoms([copper(1)]), settings)


def test_class_that_is_not_there():
    with pytest.raises(ValueError, match='has no class `Emt`'):
        label(Configurations.from_atoms([copper(1)]), LabelSettings(calculator='ase.calculators.emt.Emt'))
