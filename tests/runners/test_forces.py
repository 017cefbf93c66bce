from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from aiida_mlipal.runners.committee import evaluate
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Replica
from aiida_mlipal.science.configurations import Configurations


def systems_of(frames: list[Atoms]) -> Systems:
    return Systems(
        [
            Replica(index=index, numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)
            for index, atoms in enumerate(frames)
        ]
    )


@pytest.fixture
def frames() -> list[Atoms]:
    """Crystals, a slab and a molecule without a cell."""
    molecule = Atoms('Cu3', positions=[[0, 0, 0], [2.3, 0.1, 0], [0.2, 2.4, 0.1]])
    mixed = [bulk('Cu', cubic=True), fcc111('Cu', (2, 2, 2), a=3.6, vacuum=6.0), molecule, bulk('Cu', cubic=True) * 2]
    for seed, atoms in enumerate(mixed):
        atoms.rattle(0.1, seed=seed)
        atoms.positions += 5.3 * seed  # outside of the cell
    return mixed


def test_batch_agrees_with_mace_calculator_for_every_periodicity(committee, frames):
    from mace.calculators import MACECalculator

    prediction = MaceForces(committee)(systems_of(frames), stress=True)
    for system, atoms in enumerate(frames):
        atoms.calc = MACECalculator(models=committee[:1], device='cpu', default_dtype='float64')
        assert float(prediction.energies[system]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        if atoms.pbc.all():
            stress = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(prediction.stresses[system], stress, atol=1e-9)
    forces = np.concatenate([atoms.get_forces() for atoms in frames])
    np.testing.assert_allclose(prediction.forces, forces, atol=1e-8)


def test_batch_agrees_with_torchsim(committee):
    import torch
    import torch_sim
    from torch_sim.models.mace import MaceModel

    frames = [bulk('Cu', cubic=True), bulk('Cu', cubic=True) * (2, 1, 1)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    model = MaceModel(committee[0], device=torch.device('cpu'), dtype=torch.float64)
    expected = model(torch_sim.io.atoms_to_state(frames, torch.device('cpu'), torch.float64))
    energies, forces, stresses = MaceForces(committee)(systems_of(frames), stress=True)
    np.testing.assert_allclose(energies, expected['energy'], atol=1e-8)
    np.testing.assert_allclose(forces, expected['forces'], atol=1e-8)
    np.testing.assert_allclose(stresses, expected['stress'], atol=1e-10)


def test_lists_are_searched_anew_when_atoms_or_cells_have_moved(committee, frames):
    """A walk of 40 steps, some cells deforming: the same forces as from a fresh search at every step."""
    import torch

    forces, systems = MaceForces(committee), systems_of(frames)
    searches: list[int] = []
    search = forces.neighbours._search
    forces.neighbours._search = lambda *arguments: (searches.append(1), search(*arguments))  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(1)
    for step in range(40):
        systems.positions = systems.positions + 0.02 * torch.randn(systems.positions.shape, generator=generator)
        if step % 2:
            strains = 0.01 * torch.randn((len(frames), 3, 3), generator=generator, dtype=torch.float64)
            strains[1:3] = 0
            factors = torch.linalg.matrix_exp(strains)
            systems.cells = systems.cells @ factors
            systems.positions = (systems.positions[:, None, :] @ factors[systems.system]).squeeze(1)
        torch.testing.assert_close(forces(systems).forces, MaceForces(committee)(systems).forces, atol=1e-9, rtol=0)
    assert 2 * len(frames) < len(searches) < 40 * len(frames)


def test_systems_come_and_go(committee, frames):
    forces, systems = MaceForces(committee), systems_of(frames)
    whole = forces(systems).forces
    first = systems.replicas[0]
    systems.keep([1, 3])
    expected = np.split(whole.numpy(), np.cumsum([len(atoms) for atoms in frames])[:-1])
    np.testing.assert_allclose(forces(systems).forces, np.concatenate([expected[1], expected[3]]), atol=1e-9)
    systems.add([first])
    np.testing.assert_allclose(
        forces(systems).forces, np.concatenate([expected[1], expected[3], expected[0]]), atol=1e-9
    )


def test_uncertainties_are_those_of_the_evaluation(committee, frames):
    evaluation = evaluate(Configurations.from_atoms(frames), committee, batch_atoms=64)
    found = MaceForces(committee).uncertainties(systems_of(frames))
    np.testing.assert_allclose(found, evaluation.max_forces_std, rtol=1e-8)
