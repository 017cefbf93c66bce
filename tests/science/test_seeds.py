from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.data import atomic_numbers, ground_state_magnetic_moments

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.filters import physical
from aiida_mlipal.science.seeds import (
    GENERATORS,
    generate,
    isolated_atoms,
    set_initial_moments,
    unpaired_electrons,
)

PARENT = Configurations.from_atoms([bulk('Si', cubic=True)])
RECIPE = [
    {'generator': 'rattle', 'n_frames': 3, 'stdev': 0.1},
    {'generator': 'isotropic_strain', 'n_frames': 5, 'min': -0.03, 'max': 0.05},
    {'generator': 'shear_strain', 'n_frames': 4, 'max': 0.04},
    {'generator': 'vacancy', 'n_frames': 2},
    {'generator': 'isolated_atoms'},
]


def deformation(child: Configurations, index: int) -> np.ndarray:
    """The F of cell' = cell F^T."""
    return np.linalg.solve(PARENT.cell[0], child.cell[index]).T


def test_same_seed_same_bytes_and_another_seed_others():
    one, two, other = generate(PARENT, RECIPE, 7), generate(PARENT, RECIPE, 7), generate(PARENT, RECIPE, 8)
    for name, column in one.columns().items():
        assert column.tobytes() == two.columns()[name].tobytes(), name
    rattled = one.origin == 'rattle'
    assert not set(one.frame_id[rattled]) & set(other.frame_id)


def test_an_item_does_not_depend_on_the_frames_of_another():
    longer = [{**RECIPE[0], 'n_frames': 9}, *RECIPE[1:]]
    shear = [
        c.frame_id[c.origin == 'shear_strain'].tolist() for c in (generate(PARENT, r, 7) for r in (RECIPE, longer))
    ]
    assert shear[0] == shear[1]


def test_provenance_columns():
    seeds = generate(PARENT, RECIPE, 7)
    atoms = seeds.has_role('isolated_atom')
    assert (seeds.parent[~atoms] == PARENT.frame_id[0]).all()
    assert (seeds.reference_cell[~atoms] == PARENT.cell[0]).all()
    assert set(seeds.role) == {'train', 'isolated_atom'}
    assert set(seeds.trajectory) == {''}
    assert [int((seeds.origin == item['generator']).sum()) for item in RECIPE] == [3, 5, 4, 2, 3]
    assert not physical(seeds).astype(bool).any()


def test_rattle_has_the_asked_spread():
    seeds = generate(PARENT, [{'generator': 'rattle', 'n_frames': 200, 'stdev': 0.1}], 1)
    moves = seeds.positions.reshape(200, 8, 3) - PARENT.positions
    assert moves.std() == pytest.approx(0.1, rel=0.05)
    assert (seeds.cell == PARENT.cell).all()


def test_isotropic_strain_is_evenly_spaced():
    seeds = generate(PARENT, [RECIPE[1]], 1)
    for index, strain in enumerate(np.linspace(-0.03, 0.05, 5)):
        assert np.allclose(deformation(seeds, index), (1 + strain) * np.eye(3))
        assert np.allclose(seeds.atoms(index).get_scaled_positions(), PARENT.atoms(0).get_scaled_positions())
    (single,) = generate(PARENT, [{**RECIPE[1], 'n_frames': 1}], 1).cell
    assert np.allclose(single, 1.01 * PARENT.cell[0])


def test_shear_strain_is_symmetric_and_bounded():
    seeds = generate(PARENT, [{**RECIPE[2], 'n_frames': 50}], 1)
    strains = np.array([deformation(seeds, index) - np.eye(3) for index in range(50)])
    assert np.allclose(strains, strains.transpose(0, 2, 1))
    assert np.allclose(np.einsum('fii->fi', strains), 0)
    assert 0.03 < np.abs(strains).max() <= 0.04
    assert np.allclose(seeds.atoms(7).get_scaled_positions(), PARENT.atoms(0).get_scaled_positions())


def test_vacancy_takes_atoms_away():
    seeds = generate(PARENT, [{'generator': 'vacancy', 'n_frames': 30, 'n_vacancies': 2}], 1)
    assert (seeds.n_atoms == 6).all()
    assert (seeds.multiplicity == 0).all()
    assert len(set(seeds.frame_id)) == 30
    with pytest.raises(ValueError, match='would remove 8 of the 8 atoms'):
        generate(PARENT, [{'generator': 'vacancy', 'n_vacancies': 8}], 1)


def test_exact_repeats_enter_once():
    recipe = [{'generator': 'unchanged'}, {'generator': 'isotropic_strain', 'n_frames': 3, 'min': -0.01, 'max': 0.01}]
    seeds = generate(PARENT, recipe, 1)
    assert seeds.origin.tolist() == ['unchanged', 'isotropic_strain', 'isotropic_strain']
    assert seeds.frame_id[0] == PARENT.frame_id[0]


def test_charge_and_spin_of_the_parent_are_kept():
    parent = Configurations.from_atoms([molecule('O2')], charge=-1, multiplicity=2)
    seeds = generate(parent, [{'generator': 'rattle', 'n_frames': 2}], 1)
    assert seeds.charge.tolist() == [-1, -1]
    assert seeds.multiplicity.tolist() == [2, 2]


@pytest.mark.parametrize(
    ('symbol', 'expected'),
    [
        ('H', [1]), ('He', [0]), ('Li', [1]), ('C', [0, 2, 4]), ('N', [1, 3]), ('O', [0, 2]), ('F', [1]),
        ('Al', [1, 3]), ('Si', [0, 2, 4]), ('Ti', [0, 2, 4]), ('Cr', [4, 6]), ('Fe', [2, 4]), ('Ni', [0, 2]),
        ('Cu', [1]), ('Zn', [0]), ('Pt', [0, 2]), ('Ce', [0, 2]), ('Gd', [6, 8, 10]), ('Pb', [0, 2, 4]),
    ],
)  # fmt: skip
def test_unpaired_electrons(symbol, expected):
    assert unpaired_electrons(atomic_numbers[symbol]) == expected


def test_unpaired_electrons_of_every_element_are_possible():
    for number in range(1, 103):
        moments = unpaired_electrons(number)
        assert min(abs(moment - ground_state_magnetic_moments[number]) for moment in moments) <= 1
        assert all(0 <= moment <= number and (number - moment) % 2 == 0 for moment in moments), number


def test_unknown_element():
    with pytest.raises(ValueError, match='atomic number 0 is not in the table'):
        unpaired_electrons(0)


def test_isolated_atoms():
    atoms = isolated_atoms([14, 1, 14])
    assert [(f.get_chemical_formula(), int(m)) for f, m in zip(atoms.to_atoms(), atoms.multiplicity, strict=True)] == [
        ('H', 2), ('Si', 1), ('Si', 3), ('Si', 5)
    ]  # fmt: skip
    assert len(set(atoms.frame_id)) == 4  # the multiplicity is part of the identity
    assert atoms.pbc.all()
    lengths = np.diagonal(atoms.cell, axis1=1, axis2=2)
    assert lengths.min() >= 12
    assert len(np.unique(lengths[0])) == 3


def test_isolated_atoms_come_once_for_all_parents():
    parents = Configurations.from_atoms([bulk('Si'), bulk('Ge'), bulk('Si', cubic=True)])
    seeds = generate(parents, [{'generator': 'isolated_atoms'}, {'generator': 'isolated_atoms'}], 1)
    assert len(seeds) == 6
    assert seeds.elements == ['Si', 'Ge']


@pytest.mark.parametrize(
    ('recipe', 'message'),
    [
        ([], 'recipe is empty'),
        ([{'n_frames': 3}], 'item 1: the key `generator` is missing'),
        ([{'generator': 'ratle'}], r'unknown generator `ratle`. Did you mean `rattle`\?'),
        ([{'generator': 'rattle', 'stddev': 1}], r'unknown parameter of `rattle` `stddev`. Did you mean `stdev`\?'),
        ([{'generator': 'rattle', 'n_frames': 0}], 'n_frames` must be an integer of at least 1, got 0'),
        ([{'generator': 'rattle', 'stdev': -1}], '`stdev` must be a number greater than 0'),
        ([{'generator': 'isotropic_strain', 'n_frames': 2, 'min': 0.1, 'max': 0.0}], '`max` must be a number greater'),
        ([{'generator': 'shear_strain', 'max': -0.1}], '`max` must be a number'),
        ([{'generator': 'isolated_atoms', 'n_frames': 3}], 'unknown parameter of `isolated_atoms`'),
    ],
)
def test_bad_recipes(recipe, message):
    with pytest.raises(ValueError, match=message):
        generate(PARENT, recipe, 1)


def test_bad_parents():
    with pytest.raises(ValueError, match='at least one parent'):
        generate(Configurations.empty(), RECIPE, 1)
    with pytest.raises(ValueError, match=r'not periodic: use `rattle`'):
        generate(Configurations.from_atoms([molecule('H2O')]), [{'generator': 'shear_strain'}], 1)


@pytest.mark.parametrize('name', sorted(GENERATORS))
def test_generators_leave_the_parent_alone(name):
    before = PARENT.positions.tobytes()
    parent = PARENT.atoms(0)
    GENERATORS[name](parent, np.random.default_rng(1))
    assert parent.positions.tobytes() == before
    assert len(parent) == 8


def test_moments_by_element_or_by_atom_reach_the_seeds_but_not_the_isolated_atoms():
    iron, oxide = bulk('Fe', cubic=True), bulk('FeO', 'rocksalt', a=4.3)
    set_initial_moments([iron, oxide], {'Fe': 2.2})
    frames = generate(
        Configurations.from_atoms([iron, oxide]), [{'generator': 'rattle'}, {'generator': 'isolated_atoms'}], 1
    )
    seeds = frames.take(~frames.has_role('isolated_atom'))
    assert seeds.initial_moments.tolist() == [2.2, 2.2, 2.2, 0.0]
    assert not frames.take(frames.has_role('isolated_atom')).initial_moments.any()
    set_initial_moments([iron], [[2.2, -2.2]])
    assert Configurations.from_atoms([iron]).initial_moments.tolist() == [2.2, -2.2]


@pytest.mark.parametrize(
    ('moments', 'message'),
    [
        ({'Co': 1.7}, r"`initial_moments` names \['Co'\], but the structures consist of \['Fe'\]"),
        ([[2.2]], r'one list per structure .* expected lists of \[2\] numbers, got \[1\]'),
        ([[2.2, 2.2], [2.2]], r'got \[2, 1\]; or give them by element'),
    ],
)
def test_moments_that_do_not_fit_are_refused(moments, message):
    with pytest.raises(ValueError, match=message):
        set_initial_moments([bulk('Fe', cubic=True)], moments)
