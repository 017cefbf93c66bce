"""What CP2K is asked for: basis sets, solver, spin, charge, box, and a level of theory that mixes nothing."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from aiida import orm
from aiida_quantumespresso.workflows.protocols.utils import recursive_merge
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.seeds import generate, isolated_atoms
from aiida_mlipal.workflows.engines.cp2k import Cp2kEngine
from aiida_mlipal.workflows.engines.cp2k_checks import check_cp2k_frames, check_cp2k_parameters
from aiida_mlipal.workflows.engines.cp2k_data import read_entries, select_entries
from aiida_mlipal.workflows.engines.cp2k_inputs import complete_parameters, cp2k_mesh, cp2k_parameters, frame_box
from aiida_mlipal.workflows.engines.cp2k_ladder import minimise_by_cg, mix_gently
from aiida_mlipal.workflows.engines.cp2k_level_of_theory import cp2k_level_of_theory, valences_of
from aiida_mlipal.workflows.engines.cp2k_outputs import _ABORT, _PICTURE
from tests.workflows.engines.conftest import QUICK_CP2K, SR_CUT, XTB

BASES = """
# made up
 O  DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q6
 1
 2 0 2 1 1 1
      1.0   0.5 0.5
 H  DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q1
 1
 2 0 0 1 1
      0.8   0.3
 Fe DZVP-MOLOPT-SR-GTH DZVP-MOLOPT-SR-GTH-q16
 1
 2 0 0 1 1
      0.9   0.3
"""
POTENTIALS = """
O GTH-PBE-q6 GTH-PBE
    2    4
     0.24    2    -16.6     2.4
O GTH-BLYP-q6 GTH-BLYP
    2    4
     0.25    2    -16.6     2.4
H GTH-PBE-q1 GTH-PBE
    1
     0.20    2    -4.2     0.7
Fe GTH-PBE-q16 GTH-PBE
    4    6    6
     0.36    2    5.4     -1.1
"""
SMEARED = {'FORCE_EVAL': {'DFT': {'SCF': {'SMEAR': {'METHOD': 'FERMI_DIRAC', 'ELECTRONIC_TEMPERATURE': 1000}}}}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'BASIS_MOLOPT').write_text(BASES)
    (tmp_path / 'GTH_POTENTIALS').write_text(POTENTIALS)
    return tmp_path


def _complete(elements, parameters=None, *, k_points=False):
    return complete_parameters(recursive_merge(QUICK_CP2K, parameters or {}), k_points=k_points, elements=elements)


def _asked(atoms, parameters=None, *, elements=None, index=0, **columns):
    """Return the sections of one frame."""
    frames = Configurations.from_atoms([atoms], **columns)
    elements = elements or frames.elements
    return cp2k_parameters(_complete(elements, parameters), frames, index, valences_of(elements, POTENTIALS))


def test_entries_are_read_with_all_names():
    entries = read_entries(POTENTIALS)
    assert [(entry.element, entry.name, entry.n_electrons) for entry in entries] == [
        ('O', 'GTH-PBE-q6', 6),
        ('O', 'GTH-BLYP-q6', 6),
        ('H', 'GTH-PBE-q1', 1),
        ('Fe', 'GTH-PBE-q16', 16),
    ]
    assert valences_of(['Fe', 'H'], POTENTIALS) == {'Fe': 16.0, 'H': 1.0}
    assert read_entries(entries[0].text) == entries[:1]


@pytest.mark.codes
def test_entries_of_the_files_that_come_with_cp2k(cp2k_executable):
    from aiida_mlipal.workflows.engines.cp2k_data import data_folder, find_entry

    bases = read_entries((data_folder(None) / 'BASIS_MOLOPT').read_text())
    potentials = read_entries((data_folder(None) / 'GTH_POTENTIALS').read_text())
    for element, electrons in {'H': 1, 'O': 6, 'Na': 9, 'Cl': 7, 'Fe': 16}.items():
        potential = find_entry(potentials, element, 'GTH-PBE')
        assert potential.n_electrons == electrons
        assert valences_of([element], potential.text) == {element: float(electrons)}
        assert find_entry(bases, element, 'DZVP-MOLOPT-SR-GTH').n_electrons == electrons


def test_missing_basis_set_or_potential_is_refused_with_the_mend(folder):
    kinds = {'O': {'BASIS_SET': 'TZVP-MOLOPT-GTH', 'POTENTIAL': 'GTH-PBE'}}
    with pytest.raises(ValueError, match=r'no BASIS_SET `TZVP-MOLOPT-GTH` for O .* it has DZVP-MOLOPT-SR-GTH'):
        select_entries(folder, 'BASIS_MOLOPT', kinds, 'BASIS_SET')
    with pytest.raises(ValueError, match=r'no POTENTIAL `GTH-PBE` for Xe .* it has none for this element'):
        select_entries(folder, 'GTH_POTENTIALS', {'Xe': {'POTENTIAL': 'GTH-PBE'}}, 'POTENTIAL')
    with pytest.raises(ValueError, match=r'no POTENTIAL for O: add `\{_: O, POTENTIAL'):
        select_entries(folder, 'GTH_POTENTIALS', {'O': {'BASIS_SET': 'DZVP'}}, 'POTENTIAL')
    with pytest.raises(ValueError, match='there is no file NO_SUCH_FILE'):
        select_entries(folder, 'NO_SUCH_FILE', kinds, 'BASIS_SET')
    frames = Configurations.from_atoms([molecule('H2O')])
    problems = check_cp2k_frames(frames, _complete(['O']), k_points=False, potentials=POTENTIALS)
    assert problems[0].startswith('no basis set and potential for H: the inputs have O.')


def test_solver_follows_from_what_is_asked():
    scf = _complete(['O'])['FORCE_EVAL']['DFT']['SCF']
    assert 'OT' in scf
    assert scf['OUTER_SCF']['EPS_SCF'] == scf['EPS_SCF']
    for parameters, k_points in ((SMEARED, False), ({}, True)):
        scf = _complete(['O'], parameters, k_points=k_points)['FORCE_EVAL']['DFT']['SCF']
        assert 'OT' not in scf
        assert 'DIAGONALIZATION' in scf
        assert scf['MIXING']['METHOD'] == 'BROYDEN_MIXING'


def test_what_excludes_each_other_is_refused():
    ot = {'FORCE_EVAL': {'DFT': {'SCF': {'OT': {'MINIMIZER': 'CG'}}}}}
    assert check_cp2k_parameters(_complete(['O'], ot), k_points=False) is None
    assert 'OT knows no k-points: remove' in check_cp2k_parameters(_complete(['O'], ot), k_points=True)
    both = _complete(['O'], recursive_merge(ot, SMEARED))
    assert 'OT and SMEAR exclude' in check_cp2k_parameters(both, k_points=False)
    moving = _complete(['O'], {'GLOBAL': {'RUN_TYPE': 'MD'}})
    assert 'RUN_TYPE is MD' in check_cp2k_parameters(moving, k_points=False)


def test_charge_and_multiplicity_reach_the_input():
    dft = _asked(Atoms('OH', positions=[[0, 0, 0], [0, 0, 1]]), charge=-1)['FORCE_EVAL']['DFT']
    assert (dft['CHARGE'], dft.get('UKS')) == (-1, None)
    dft = _asked(molecule('OH'), multiplicity=2)['FORCE_EVAL']['DFT']
    assert (dft['CHARGE'], dft['UKS'], dft['MULTIPLICITY']) == (0, True, 2)
    odd = _asked(Atoms('OH', positions=[[0, 0, 0], [0, 0, 1]]))['FORCE_EVAL']['DFT']
    assert (odd['UKS'], odd['MULTIPLICITY']) == (True, 2), 'an odd number of electrons is a doublet'
    fixed = _asked(molecule('O2'), SMEARED, multiplicity=3)['FORCE_EVAL']['DFT']
    assert fixed['SCF']['SMEAR']['FIXED_MAGNETIC_MOMENT'] == 2.0
    assert fixed['SCF']['ADDED_MOS'] >= 10


def test_initial_moments_make_kinds():
    atoms = bulk('Fe', cubic=True)
    atoms.set_initial_magnetic_moments([2.2, -2.2])
    asked = _asked(atoms, SMEARED)
    kinds = asked['FORCE_EVAL']['SUBSYS']['KIND']
    assert [(kind['_'], kind['MAGNETIZATION'], kind['POTENTIAL']) for kind in kinds] == [
        ('Fe1', 2.2, 'GTH-PBE'),
        ('Fe2', -2.2, 'GTH-PBE'),
    ]
    dft = asked['FORCE_EVAL']['DFT']
    assert (dft['UKS'], dft['MULTIPLICITY']) == (True, 1)
    assert 'FIXED_MAGNETIC_MOMENT' not in dft['SCF']['SMEAR'], 'the moment of a metal finds its size'
    atoms.set_initial_magnetic_moments([2.2, 2.1])
    frames = Configurations.from_atoms([atoms])
    assert check_cp2k_frames(frames, _complete(['Fe'], SMEARED), k_points=False, potentials=POTENTIALS) == []
    atoms.set_initial_magnetic_moments([3.0, 2.0])
    problems = check_cp2k_frames(
        Configurations.from_atoms([atoms]), _complete(['Fe']), k_points=False, potentials=POTENTIALS
    )
    assert 'has 32 valence electrons and initial moments that add up to 5 µB' in problems[0]


def test_periodicity():
    bulk_asked = _asked(bulk('Fe'))['FORCE_EVAL']
    assert bulk_asked['SUBSYS']['CELL']['PERIODIC'] == bulk_asked['DFT']['POISSON']['PERIODIC'] == 'XYZ'
    assert bulk_asked['STRESS_TENSOR'] == 'ANALYTICAL'
    free = _asked(molecule('H2O'))['FORCE_EVAL']
    assert free['SUBSYS']['CELL']['PERIODIC'] == 'NONE'
    assert free['DFT']['POISSON'] == {'PERIODIC': 'NONE', 'POISSON_SOLVER': 'MT'}
    assert free['STRESS_TENSOR'] == 'NONE'
    slab = fcc111('Fe', (1, 1, 2), a=3.6, vacuum=6, orthogonal=False)
    problems = check_cp2k_frames(
        Configurations.from_atoms([slab]), _complete(['Fe']), k_points=False, potentials=POTENTIALS
    )
    assert 'CP2K needs cell vectors along x, y and z' in problems[0]


def test_a_molecule_gets_a_box_that_does_not_follow_every_move():
    atoms = molecule('H2O')
    moved = atoms.copy()
    moved.positions += 0.02 * np.arange(9).reshape(3, 3)
    frames = Configurations.from_atoms([atoms, moved])
    (cell, positions), (other, _) = frame_box(frames, 0), frame_box(frames, 1)
    np.testing.assert_array_equal(cell, other)
    np.testing.assert_allclose((positions.min(axis=0) + positions.max(axis=0)) / 2, np.diag(cell) / 2)
    extent = np.ptp(atoms.positions, axis=0)
    assert (np.diag(cell) >= extent + 8.4).all()
    assert (np.diag(cell) < np.maximum(extent + 8.4, 2 * extent) + 1).all()
    long = Atoms('H2', positions=[[0, 0, 0], [20, 0, 0]])
    assert frame_box(Configurations.from_atoms([long]), 0)[0][0, 0] == 40


def test_mesh_is_that_of_the_reference_cell():
    parent = Configurations.from_atoms([bulk('Fe')])
    frames = generate(parent, [{'generator': 'isotropic_strain', 'n_frames': 5, 'min': -0.1, 'max': 0.1}], seed=1)
    assert len({cp2k_mesh(frames, index, 0.5) for index in range(5)}) == 1
    mesh, offset = cp2k_mesh(parent, 0, 1.2)
    assert offset == tuple(0.0 if count % 2 else 0.5 for count in mesh)
    assert cp2k_mesh(parent, 0, None)[0] == (1, 1, 1)


def test_isolated_atoms_have_their_multiplicity_and_neither_k_points_nor_wide_smearing():
    frames = isolated_atoms([8])
    assert frames.multiplicity.tolist() == [1, 3]
    shared = _complete(['O'], SMEARED, k_points=True)
    for index in (0, 1):
        asked = cp2k_parameters(shared, frames, index, {'O': 6.0})['FORCE_EVAL']
        scf = asked['DFT']['SCF']
        assert asked['DFT']['MULTIPLICITY'] == frames.multiplicity[index]
        assert scf['SMEAR']['FIXED_MAGNETIC_MOMENT'] == frames.multiplicity[index] - 1
        assert scf['SMEAR']['ELECTRONIC_TEMPERATURE'] == 300
        assert 'OT' not in scf
        assert cp2k_mesh(frames, index, 0.1)[0] == (1, 1, 1)
        assert asked['STRESS_TENSOR'] == 'NONE'
    free = cp2k_parameters(_complete(['O']), frames, 0, {'O': 6.0})['FORCE_EVAL']['DFT']['SCF']
    assert free['SMEAR'] == {**scf['SMEAR'], 'FIXED_MAGNETIC_MOMENT': 0.0}, 'E0 is the same whatever the solver'


def test_frames_that_are_refused():
    parameters = _complete(['H', 'O'])

    def problem(atoms, parameters=parameters, k_points=False, **columns):
        frames = Configurations.from_atoms([atoms], **columns)
        return ' '.join(check_cp2k_frames(frames, parameters, k_points=k_points, potentials=POTENTIALS))

    water = molecule('H2O')
    assert problem(water) == ''
    assert problem(water, charge=1) == ''
    assert 'is not periodic, but the inputs are set up for crystals' in problem(water, k_points=True)
    boxed = molecule('H2O', vacuum=4, pbc=True)
    assert 'has charge +1 in a periodic cell' in problem(boxed, charge=1)
    stated = _complete(['H', 'O'], {'FORCE_EVAL': {'DFT': {'CHARGE': 1}}})
    assert problem(boxed, stated, charge=1) == ''
    assert 'has charge +0, but' in problem(boxed, stated)
    assert 'is periodic, but has no cell' in problem(Atoms('H', pbc=True))


def test_xtb_is_for_molecules():
    """What CP2K gives for crystals, and why it is refused, is measured in test_cp2k_labels."""
    parameters, salt = _complete(['Cl', 'Na'], XTB), bulk('NaCl', 'rocksalt', a=5.6)

    def problems(parameters, *atoms, **columns):
        frames = Configurations.from_atoms(atoms, **columns)
        return check_cp2k_frames(frames, parameters, k_points=False, potentials=None)

    (problem,) = problems(parameters, molecule('H2O'), salt)
    assert problem.startswith("frame 1 is periodic, where energies of CP2K's own xTB depend on the cut-off")
    assert 'take `engine: ase` with `parameters: {calculator: tblite, parameters: {method: GFN1-xTB}}`' in problem
    assert problems(parameters, molecule('H', vacuum=6, pbc=True), role='isolated_atom') == []
    stated = _complete(['Cl', 'Na'], recursive_merge(XTB, SR_CUT))
    assert problems(stated, salt) == []
    theory = cp2k_level_of_theory(stated, None, None, None)
    assert theory['dft']['QS']['XTB']['PARAMETER']['COULOMB_SR_CUT'] == 20


def test_level_of_theory_knows_what_matters(folder):
    def theory(parameters=None, distance=None, potential='GTH-PBE', basis='DZVP-MOLOPT-SR-GTH'):
        kind = [{'_': 'DEFAULT', 'BASIS_SET': basis, 'POTENTIAL': potential}]
        given = recursive_merge({'FORCE_EVAL': {'SUBSYS': {'KIND': kind}}}, deepcopy(parameters or {}))
        return cp2k_level_of_theory(_complete(['O'], given, k_points=distance is not None), distance, BASES, POTENTIALS)

    plain = theory()
    assert plain['functional'] == 'PBE'
    assert plain['occupations'] == 'fixed'
    assert plain['k_points'] == 'gamma'
    assert plain['potentials']['O'].startswith('GTH-PBE-q6 ')
    assert plain['dft']['MGRID']['CUTOFF'] == 240
    assert theory(potential='GTH-PBE-q6') == plain, 'an alias is the same potential'
    steered = {'FORCE_EVAL': {'DFT': {'SCF': {'MAX_SCF': 9, 'DIAGONALIZATION': {}}, 'UKS': True}}}
    assert theory(steered) == plain
    assert theory({'FORCE_EVAL': {'DFT': {'MGRID': {'CUTOFF': 300}}}}) != plain
    assert theory(SMEARED)['occupations']['ELECTRONIC_TEMPERATURE'] == 1000
    assert theory(distance=0.3)['k_points']['distance'] == 0.3
    dispersion = {'FORCE_EVAL': {'DFT': {'XC': {'VDW_POTENTIAL': {}}}}}
    pair = theory(dispersion)['dft']['XC']['VDW_POTENTIAL']['PAIR_POTENTIAL']
    assert (pair['TYPE'], pair['REFERENCE_FUNCTIONAL']) == ('DFTD3(BJ)', 'PBE')
    with pytest.raises(ValueError, match='functionals are mixed: the potential of O is GTH-BLYP-q6'):
        theory(potential='GTH-BLYP')
    with pytest.raises(ValueError, match='is for 1 electrons, the potential'):
        cp2k_level_of_theory(_complete(['O']), None, BASES.replace('-q6', '-q1'), POTENTIALS)


def test_xtb_has_no_basis_sets_and_no_functional_of_its_own():
    asked = _asked(bulk('NaCl', 'rocksalt', a=5.6), XTB)['FORCE_EVAL']
    assert not {'XC', 'MGRID', 'BASIS_SET_FILE_NAME', 'POTENTIAL_FILE_NAME'} & set(asked['DFT'])
    assert asked['DFT']['QS']['XTB'] == {'CHECK_ATOMIC_CHARGES': False, 'DO_EWALD': True}
    assert asked['SUBSYS']['KIND'] == []
    theory = cp2k_level_of_theory(_complete(['Fe'], XTB), None, None, None)
    assert theory['functional'] == 'GFN1-xTB'
    assert 'basis_sets' not in theory


def test_rungs_of_the_ladder():
    ot = orm.Dict(_complete(['O']))
    scf = minimise_by_cg(ot)['FORCE_EVAL']['DFT']['SCF']
    assert (scf['OT']['MINIMIZER'], scf['OT']['PRECONDITIONER']) == ('CG', 'FULL_ALL')
    assert scf['MAX_SCF'] == 60
    mixed = orm.Dict(_complete(['O'], SMEARED))
    scf = mix_gently(mixed)['FORCE_EVAL']['DFT']['SCF']
    assert scf['MIXING']['ALPHA'] == pytest.approx(0.05)
    assert scf['MAX_SCF'] == 300


def test_the_reason_beside_the_man_with_the_axe():
    text = """
 *******************************************************************************
 *   ___                                                                       *
 *  /   \\                                                                      *
 * [ABORT]                                                                     *
 *  \\___/    The number of basis functions is zero for kind                    *
 *    |      number one                                                        *
 *  O/|                                                                        *
 * /| |                                                                        *
 * / \\                                                   qs_environment.F:1502 *
 *******************************************************************************
"""
    lines = [match[1] for line in _ABORT.search(text)[1].splitlines() if (match := _PICTURE.match(line)) and match[1]]
    assert lines == ['The number of basis functions is zero for kind', 'number one', 'qs_environment.F:1502']


@pytest.mark.codes
def test_engine_inputs(cp2k_inputs):
    engine, water = Cp2kEngine(), molecule('H2O')
    inputs = cp2k_inputs([water])
    assert engine.validate(inputs) is None
    assert engine.gives_stress(inputs)
    assert engine.describe(inputs).get_dict() == engine.level_of_theory(inputs)
    assert inputs['basis_sets'].get_content().startswith('H DZVP-MOLOPT-SR-GTH')
    without = {name: node for name, node in inputs.items() if name != 'potentials'}
    assert engine.validate(without) == "`Cp2kEngine` needs inputs ['potentials']; its `build` makes them."
    odd = Configurations.from_atoms([water], multiplicity=2)
    assert 'has 10 electrons and multiplicity 2' in engine.check_frames(odd, inputs)[0]
    with pytest.raises(ValueError, match='there is no folder `/no/such/folder`'):
        cp2k_inputs([water], data_dir='/no/such/folder')
    assert 'basis_sets' not in cp2k_inputs([water], XTB)


@pytest.mark.codes
def test_campaign_from_a_protocol(cp2k_code, python_code):
    """Γ and OT by default; k-points and smearing on request; both reach the engine."""
    from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain

    salt = orm.StructureData(ase=bulk('NaCl', 'rocksalt', a=5.6, cubic=True))
    codes = {'label': cp2k_code, 'train': python_code}

    def build(label):
        return ActiveLearningWorkChain.get_builder_from_protocol(
            salt, codes, protocol='fast', engine='cp2k', overrides={'label': label}
        ).label.engine_inputs

    inputs = build({})
    assert 'kpoints_distance' not in inputs
    dft = inputs['parameters']['FORCE_EVAL']['DFT']
    assert (dft['MGRID'], 'OT' in dft['SCF']) == ({'CUTOFF': 500, 'REL_CUTOFF': 80}, True)
    assert Cp2kEngine().validate(inputs) is None
    inputs = build({'kpoints_distance': 0.4, 'parameters': SMEARED})
    assert inputs['kpoints_distance'].value == 0.4
    assert 'OT' not in inputs['parameters']['FORCE_EVAL']['DFT']['SCF']
    assert Cp2kEngine().validate(inputs) is None
    ot = {'FORCE_EVAL': {'DFT': {'SCF': {'OT': {'MINIMIZER': 'CG'}}}}}
    with pytest.raises(ValueError, match='OT knows no k-points'):
        build({'kpoints_distance': 0.4, 'parameters': ot})


def test_keys_of_other_engines_are_refused():
    from aiida_mlipal.workflows.campaign_schema import Label

    with pytest.raises(ValueError, match='`pseudo_family` means nothing to the engine `cp2k`'):
        Label(engine='cp2k', code='cp2k@localhost', pseudo_family='SSSP')
    assert Label(engine='cp2k', code='cp2k@localhost', data_dir='/data').data_dir == '/data'
