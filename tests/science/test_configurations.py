from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.configurations import Configurations

quick = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def frames(draw, max_frames: int = 5, labels: bool = False) -> list[Atoms]:
    """Frames of mixed composition, size and periodicity, some without a cell."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result = []
    for _ in range(draw(st.integers(1, max_frames))):
        n_atoms = draw(st.integers(1, 4))
        pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
        cell = np.eye(3) * 4 + rng.normal(scale=0.3, size=(3, 3)) if any(pbc) else np.zeros((3, 3))
        atoms = Atoms(
            rng.choice([1, 6, 8, 14, 79], n_atoms), positions=rng.normal(size=(n_atoms, 3)), cell=cell, pbc=pbc
        )
        if labels:
            results = {'energy': rng.normal(), 'forces': rng.normal(size=(n_atoms, 3))}
            if all(pbc):
                results['stress'] = rng.normal(size=6)
            atoms.calc = SinglePointCalculator(atoms, **results)
        result.append(atoms)
    return result


def equal(a: Configurations, b: Configurations) -> bool:
    return all(
        left.dtype == right.dtype and left.tobytes() == right.tobytes()
        for left, right in zip(a.columns().values(), b.columns().values(), strict=True)
    )


@quick
@given(frames(labels=True))
def test_atoms_round_trip(atoms):
    configs = Configurations.from_atoms(atoms, labels=True)
    again = Configurations.from_atoms(configs.to_atoms(), labels=True)
    assert equal(configs, again)
    for before, after in zip(atoms, configs.to_atoms(), strict=True):
        assert (before.positions == after.positions).all()
        assert (before.pbc == after.pbc).all()
        assert before.calc.results.keys() == after.calc.results.keys()


@quick
@given(frames(labels=True), st.data())
def test_save_and_load(tmp_path, atoms, data):
    role = data.draw(
        st.lists(st.sampled_from(['train', 'test', 'candidate']), min_size=len(atoms), max_size=len(atoms))
    )
    configs = Configurations.from_atoms(atoms, labels=True, role=role, reason='ä/日本')
    configs.save(tmp_path / 'a.npz')
    Configurations.load(tmp_path / 'a.npz').save(tmp_path / 'b.npz')
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
    assert equal(configs, Configurations.load(tmp_path / 'a.npz'))


def test_equal_content_has_equal_bytes_whatever_its_history(tmp_path):
    """Text columns narrow again after a long value was taken away."""
    configs = Configurations.from_atoms([bulk('Si'), bulk('Al')], reason=['x' * 80, ''])
    configs.take([1]).save(tmp_path / 'a.npz')
    Configurations.from_atoms([bulk('Al')]).save(tmp_path / 'b.npz')
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


@quick
@given(frames(), frames(), st.randoms())
def test_concatenate_and_take(first, second, random):
    one, two = Configurations.from_atoms(first), Configurations.from_atoms(second)
    both = Configurations.concatenate([one, two, Configurations.empty()])
    assert len(both) == len(one) + len(two)
    assert equal(both.take(np.arange(len(both)) < len(one)), one)
    assert equal(both.take(np.arange(len(one), len(both))), two)
    order = list(range(len(both)))
    random.shuffle(order)
    shuffled = both.take(order)
    assert equal(shuffled.take(np.argsort(order)), both)
    for place, row in enumerate(order):
        assert (shuffled.atoms(place).positions == both.atoms(row).positions).all()


@quick
@given(frames(labels=True))
def test_extxyz_round_trip(tmp_path, atoms):
    configs = Configurations.from_atoms(atoms, labels=True, role='test', origin='rattle')
    configs.write_extxyz(tmp_path / 'frames.xyz')
    again = read(tmp_path / 'frames.xyz', ':')
    for index, (before, after) in enumerate(zip(atoms, again, strict=True)):
        assert after.info['frame_id'] == configs.frame_id[index]
        assert after.info['role'] == 'test'
        assert (after.numbers == before.numbers).all()
        assert (after.pbc == before.pbc).all()
        assert after.positions == pytest.approx(before.positions, abs=1e-7)
        assert after.cell.array == pytest.approx(before.cell.array, abs=1e-7)
        assert after.info['REF_energy'] == pytest.approx(before.calc.results['energy'])
        assert after.arrays['REF_forces'] == pytest.approx(before.calc.results['forces'], abs=1e-7)
        assert ('REF_stress' in after.info) == ('stress' in before.calc.results and before.pbc.all())
        if 'REF_stress' in after.info:
            stress = np.asarray(after.info['REF_stress'])
            voigt = stress if stress.shape == (6,) else stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            assert voigt == pytest.approx(before.calc.results['stress'], abs=1e-7)


def test_extxyz_leaves_out_what_was_rejected(tmp_path):
    configs = Configurations.from_atoms(
        [bulk('Si')] * 3,
        status=['labelled', 'rejected', 'unlabelled'],
        energy=[-1.0, -2.0, 0.0],
        forces=np.zeros((6, 3)),
    )
    configs.write_extxyz(tmp_path / 'frames.xyz')
    assert ['REF_energy' in atoms.info for atoms in read(tmp_path / 'frames.xyz', ':')] == [True, False, False]


def test_group_by_composition():
    configs = Configurations.from_atoms([molecule('H2O'), bulk('Si'), molecule('H2O'), bulk('NaCl', 'rocksalt', a=5.6)])
    groups = {formula: rows.tolist() for formula, rows in configs.group_by_composition().items()}
    assert groups == {'ClNa': [3], 'H2O': [0, 2], 'Si2': [1]}
    assert configs.elements == ['H', 'O', 'Na', 'Si', 'Cl']


def test_identity_is_of_the_exact_bytes_and_of_all_that_defines_a_label():
    atoms = bulk('Si')
    (base,) = Configurations.from_atoms([atoms]).frame_id
    moved = atoms.copy()
    moved.positions[0, 0] = np.nextafter(moved.positions[0, 0], 1)
    others = [
        Configurations.from_atoms([moved]),
        Configurations.from_atoms([atoms], charge=1),
        Configurations.from_atoms([atoms], multiplicity=3),
        Configurations.from_atoms([atoms], reference_cell=2 * np.eye(3)),
    ]
    assert len({base, *(str(other.frame_id[0]) for other in others)}) == 5
    assert (Configurations.from_atoms([atoms], role='test', origin='x', temperature=300.0).frame_id == base).all()


def test_identity_is_carried_through_changes():
    configs = Configurations.from_atoms([bulk('Si')])
    assert configs.with_columns(positions=configs.positions + 1).frame_id[0] == configs.frame_id[0]


def test_columns_are_read_only():
    configs = Configurations.from_atoms([bulk('Si')])
    with pytest.raises(ValueError, match='read-only'):
        configs.positions[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs.energy = np.zeros(1)


def test_the_callers_array_stays_writeable_and_apart():
    energy = np.array([1.0])
    configs = Configurations.from_atoms([bulk('Si')], energy=energy)
    energy[0] = 2
    assert configs.energy[0] == 1


def test_empty(tmp_path):
    empty = Configurations.empty()
    assert (len(empty), empty.elements, empty.to_atoms(), len(empty.offsets)) == (0, [], [], 1)
    empty.save(tmp_path / 'a.npz')
    assert equal(Configurations.load(tmp_path / 'a.npz'), empty)
    assert equal(Configurations.from_atoms([]), empty)
    assert len(Configurations.from_atoms([bulk('Si')]).take([])) == 0


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'energies': [1.0]}, 'unknown columns'),
        ({'energy': [1.0, 2.0]}, r'`energy` must have shape \(1,\), got \(2,\)'),
        ({'forces': np.zeros((3, 3))}, r'`forces` must have shape \(2, 3\)'),
        ({'role': 'training'}, r"`role` holds \['training'\]"),
        ({'status': 'done'}, r"`status` holds \['done'\]"),
    ],
)
def test_bad_columns(columns, message):
    with pytest.raises(ValueError, match=message):
        Configurations.from_atoms([bulk('Si')], **columns)


def test_bad_frames():
    with pytest.raises(ValueError, match='no atoms'):
        Configurations.from_atoms([bulk('Si'), Atoms()])
    with pytest.raises(KeyError, match='not among these 1 frames'):
        Configurations.from_atoms([bulk('Si')]).index_of(['fabc'])
