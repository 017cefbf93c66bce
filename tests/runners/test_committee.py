import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111

from aiida_mlipal.runners.committee import evaluate, graphs, load_models
from aiida_mlipal.science.configurations import Configurations
from tests.committee import copper


@pytest.fixture(scope='module')
def frames() -> Configurations:
    """Return cells of two sizes, a slab and a molecule."""
    slab = fcc111('Cu', (2, 2, 2), a=3.6, vacuum=6.0)
    slab.rattle(0.05, seed=1)
    molecule = Atoms('Cu3', positions=[[0, 0, 0], [2.3, 0.1, 0], [0.2, 2.4, 0.1]])
    assert slab.pbc.tolist() == [True, True, False]
    return Configurations.from_atoms([copper(1), slab, copper(2, repeat=(2, 1, 1)), molecule, copper(3)])


@pytest.fixture(scope='module')
def evaluation(frames, committee):
    return evaluate(frames, committee, batch_atoms=9)


def test_agrees_with_mace_calculator(frames, evaluation, committee):
    from mace.calculators import MACECalculator

    calculators = [MACECalculator(models=[model], device='cpu', default_dtype='float64') for model in committee]
    offsets = evaluation.offsets
    for index, atoms in enumerate(frames.to_atoms()):
        energies, forces, stresses, features = [], [], [], None
        for calculator in calculators:
            atoms.calc = calculator
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
            stresses.append(atoms.get_stress() if atoms.pbc.all() else np.full(6, np.nan))
        features = calculators[0].get_descriptors(atoms)
        atom_rows = slice(offsets[index], offsets[index + 1])
        np.testing.assert_allclose(evaluation.member_energy[index], energies, atol=1e-8)
        np.testing.assert_allclose(evaluation.energy[index], np.mean(energies), atol=1e-8)
        np.testing.assert_allclose(evaluation.forces[atom_rows], np.mean(forces, axis=0), atol=1e-8)
        np.testing.assert_allclose(evaluation.stress[index], np.mean(stresses, axis=0), atol=1e-8)
        np.testing.assert_allclose(evaluation.descriptors[index], features.mean(axis=0), atol=1e-8)
        # Of two numbers a and b the sample variance is (a - b)^2 / 2.
        np.testing.assert_allclose(evaluation.energy_std[index], abs(energies[0] - energies[1]) / 2**0.5, atol=1e-8)
        spread = np.sqrt(((forces[0] - forces[1]) ** 2).sum(axis=1) / 6)
        np.testing.assert_allclose(evaluation.forces_std[atom_rows], spread, atol=1e-8)
    assert evaluation.max_forces_std.min() > 1e-4  # the members do differ
    assert np.isnan(evaluation.stress[[1, 3]]).all()


def test_batch_size_changes_nothing_but_round_off(frames, evaluation, committee):
    one = evaluate(frames, committee, batch_atoms=1)
    np.testing.assert_allclose(one.forces, evaluation.forces, atol=1e-10)
    np.testing.assert_allclose(one.descriptors, evaluation.descriptors, atol=1e-10)
    assert one.frame_id.tolist() == frames.frame_id.tolist()


def test_single_precision_keeps_energies(frames, evaluation, committee_files):
    models = load_models(committee_files, device='cpu', dtype='float32')
    single = evaluate(frames, models, batch_atoms=64)
    np.testing.assert_allclose(single.energy, evaluation.energy, atol=1e-5)
    np.testing.assert_allclose(single.forces, evaluation.forces, atol=1e-4)


def test_single_model_has_no_spread(frames, committee):
    single = evaluate(frames, committee[:1], batch_atoms=64)
    assert np.isnan(single.forces_std).all()
    assert np.isnan(single.energy_std).all()


def test_no_frames(committee):
    assert len(evaluate(Configurations.empty(), committee, batch_atoms=64)) == 0


def test_unknown_element_is_named(committee):
    frames = Configurations.from_atoms([Atoms('CuAu', positions=[[0, 0, 0], [0, 0, 2.6]])])
    with pytest.raises(ValueError, match='hold Au, but the model knows only Cu'):
        evaluate(frames, committee, batch_atoms=64)


def test_graph_is_in_the_dtype_of_the_model(frames, committee_files):
    import torch

    (model,) = load_models(committee_files[:1], device='cpu', dtype='float32')
    atoms = frames.atoms(0)
    graph = graphs([atoms.numbers], [atoms.positions], np.array([atoms.cell.array]), np.array([atoms.pbc]), model)
    assert graph['positions'].dtype == torch.float32
