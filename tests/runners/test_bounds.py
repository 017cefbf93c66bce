"""Each way out of bounds is recognised and named."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from aiida_mlipal.runners.bounds import can_be_labelled, hopeless_start, out_of_bounds
from aiida_mlipal.runners.trajectory import Frame, Replica
from aiida_mlipal.science.exploration_settings import ExplorationSettings

SETTINGS = ExplorationSettings(seed=1)


def replica_of(atoms: Atoms) -> Replica:
    return Replica(
        index=0, numbers=atoms.numbers, positions=atoms.positions.copy(), cell=atoms.cell.array.copy(), pbc=atoms.pbc,
        temperature=300.0,
    )  # fmt: skip


def reason(start: Atoms, now: Atoms, **columns) -> str:
    frame = Frame(step=10, positions=now.positions, cell=now.cell.array)
    values = {'max_force': 1.0, 'temperature': 300.0, 'settings': SETTINGS, **columns}
    return out_of_bounds(replica_of(start), frame, **values)


def boxed(*molecules: Atoms) -> Atoms:
    """Return molecules five Å apart in a periodic box."""
    atoms = Atoms(cell=[20, 20, 20], pbc=True)
    for number, item in enumerate(molecules):
        copy = item.copy()
        copy.positions += [3 + 5 * number, 10, 10]
        atoms += copy
    return atoms


def test_molecule_that_breaks_is_named_and_one_that_vibrates_is_not():
    for start in (molecule('CH3CH2OH'), boxed(molecule('H2O'), molecule('H2O'))):
        hydrogen = int(np.flatnonzero(start.numbers == 1)[-1])
        heavy = [atom for atom in range(len(start)) if start.numbers[atom] != 1]
        neighbour = min(heavy, key=lambda atom: start.get_distance(atom, hydrogen))
        for stretch, expected in ((1.0, ''), (1.4, ''), (2.5, 'a molecule broke')):
            now = start.copy()
            now.set_distance(neighbour, hydrogen, stretch * start.get_distance(neighbour, hydrogen), fix=0)
            found = reason(start, now)
            assert found.startswith(expected)
            assert bool(found) == bool(expected)
    assert 'that of atom 3 is in 2 pieces' in found  # the second water


def test_molecules_that_meet_are_no_reason_to_stop():
    start = boxed(molecule('H2O'), molecule('H2O'))
    now = start.copy()
    now.positions[3:] -= [2.2, 0, 0]
    assert reason(start, now) == ''


def test_neither_a_melt_nor_a_slab_is_broken():
    rng = np.random.default_rng(0)
    for start in (
        bulk('Cu', cubic=True) * 2,
        bulk('NaCl', 'rocksalt', a=5.64, cubic=True),
        fcc111('Cu', (3, 3, 3), vacuum=8),
    ):
        now = start.copy()
        now.positions += rng.normal(scale=0.15, size=now.positions.shape)
        assert reason(start, now) == ''


def test_vapour_is_named():
    start = bulk('Cu', cubic=True) * 2
    apart = start.copy()
    apart.set_cell(2.0 * start.cell, scale_atoms=True)
    assert 'the cell vaporised: 8.00 times its volume' in reason(start, apart)
    gas = bulk('Cu', cubic=True) * 2
    gas.set_cell(np.diag([40, 40, 40]), scale_atoms=False)
    spread = gas.copy()
    spread.positions *= 2.5
    assert 'the cell vaporised: 100% of the atoms have lost all neighbours' in reason(gas, spread)


def test_collapse_is_named():
    start = bulk('Cu', cubic=True) * 2
    now = start.copy()
    now.set_cell(0.75 * start.cell, scale_atoms=True)
    assert 'the cell collapsed to 0.42 of its volume' in reason(start, now)
    frame = Frame(step=1, positions=now.positions, cell=now.cell.array)
    assert not can_be_labelled(replica_of(start), frame, SETTINGS)


@pytest.mark.parametrize(
    ('columns', 'expected'),
    [
        ({'max_force': np.nan}, 'not finite'),
        ({'max_force': 60.0}, 'above `max_force`'),
        ({'temperature': 2e4}, 'max_temperature_factor'),
        ({'uncertainty': 0.4}, r'an uncertainty of 0.4 eV/Å is above `max_uncertainty` (0.3)'),
        ({'uncertainty': 0.2}, ''),
        ({'uncertainty': np.nan}, ''),
    ],
)
def test_other_bounds(columns, expected):
    atoms = bulk('Cu', cubic=True)
    found = reason(atoms, atoms, **{'settings': ExplorationSettings(seed=1, max_uncertainty=0.3), **columns})
    assert expected in found
    assert bool(found) == bool(expected)


def test_overlapping_start_is_hopeless_and_a_compressed_one_is_not():
    atoms = bulk('Cu', cubic=True)
    assert hopeless_start(replica_of(atoms), SETTINGS) == ''
    atoms.positions[1] = atoms.positions[0] + [0.6, 0, 0]
    assert 'the start overlaps' in hopeless_start(replica_of(atoms), SETTINGS)
    atoms.positions[1] = atoms.positions[0] + [1.2, 0, 0]
    assert hopeless_start(replica_of(atoms), SETTINGS) == ''
