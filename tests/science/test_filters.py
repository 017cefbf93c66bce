from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.filters import physical, too_close


def brute_force(atoms: Atoms, factor: float) -> bool:
    """Whether any pair, over two shells of images, is closer than allowed."""
    radii = factor * covalent_radii[atoms.numbers]
    ranges = [range(-2, 3) if periodic else (0,) for periodic in atoms.pbc]
    for shift in ((a, b, c) for a in ranges[0] for b in ranges[1] for c in ranges[2]):
        gaps = atoms.positions[:, None] - atoms.positions[None] + np.array(shift) @ atoms.cell.array
        distances = np.linalg.norm(gaps, axis=2)
        if shift == (0, 0, 0):
            np.fill_diagonal(distances, np.inf)
        if (distances < radii[:, None] + radii[None]).any():
            return True
    return False


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_against_all_images(seed, pbc):
    rng = np.random.default_rng(seed)
    cell = 3.2 * np.eye(3) + rng.uniform(-0.6, 0.6, (3, 3))
    atoms = Atoms('SiOH', positions=rng.uniform(0, 1, (3, 3)) @ cell, cell=cell, pbc=pbc)
    found = too_close(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 0.6)
    assert bool(found) == brute_force(atoms, 0.6)


def test_large_frames_take_the_other_search_and_agree():
    atoms = bulk('Si', cubic=True) * (4, 4, 4)
    assert len(atoms) > 200
    atoms.positions[17] = atoms.positions[300] + [0.2, 0.3, 0.4] + atoms.cell.array[0]
    reason = too_close(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    assert reason.startswith('atoms 17 (Si) and 300 (Si) are 0.539 Å apart')
    part = atoms[[17, 300]]
    assert '0.539' in too_close(part.numbers, part.positions, part.cell.array, part.pbc)


def test_real_structures_pass():
    frames = [
        bulk('Si'),
        bulk('NaCl', 'rocksalt', a=5.6),
        molecule('H2O'),
        fcc111('Al', (1, 1, 2), vacuum=5),
        bulk('Fe'),
    ]
    assert physical(Configurations.from_atoms(frames)).tolist() == [''] * 5


def test_slab_without_third_vector_passes():
    slab = Atoms(
        'C2', positions=[[0, 0, 0], [0, 1.42, 0]], cell=[[2.46, 0, 0], [1.23, 2.13, 0], [0, 0, 0]], pbc=(1, 1, 0)
    )
    assert physical(Configurations.from_atoms([slab])).tolist() == ['']


def test_own_image_counts():
    reason = too_close([14], [[0, 0, 0]], np.diag([1.0, 9, 9]), [True, True, True])
    assert reason.startswith('atoms 0 (Si) and 0 (Si) are 1.000 Å apart')
    assert too_close([14], [[0, 0, 0]], np.diag([1.0, 9, 9]), [False, True, True]) == ''


def test_names_the_worst_pair():
    reason = too_close([8, 1, 1], [[0, 0, 0], [0.5, 0, 0], [0, 0.3, 0]], np.zeros((3, 3)), [False] * 3)
    assert 'atoms 0 (O) and 2 (H) are 0.300 Å apart' in reason
    assert f'({0.6 * (covalent_radii[8] + covalent_radii[1]):.3f} Å)' in reason


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda a: a.positions.__setitem__((0, 0), np.nan), 'a position is not finite'),
        (lambda a: a.cell.__setitem__((0, 0), np.inf), 'the cell is not finite'),
        (lambda a: a.set_cell(np.array([[5, 0, 0], [0, 5, 0], [5, 5, 0.01]])), 'flatter'),
        (lambda a: a.set_cell(np.diag([5.0, 5.0, 0.0])), 'no cell vector'),
    ],
)
def test_broken_frames(change, reason):
    atoms = bulk('Si')
    change(atoms)
    (found,) = physical(Configurations.from_atoms([atoms]))
    assert reason in found


def test_imports_nothing_heavy():
    """The exploration runner takes this module to a node that has numpy, scipy and ASE alone."""
    program = (
        'import sys; import aiida_mlipal.science.filters; '
        'print([m for m in ("aiida", "torch", "pydantic", "yaml", "matplotlib") if m in sys.modules])'
    )
    found = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == '[]'
