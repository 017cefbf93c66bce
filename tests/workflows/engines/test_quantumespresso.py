"""What pw.x is asked for: mesh, spin, charge, and a level of theory that mixes nothing."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.folders import SandboxFolder
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida_pseudo.data.pseudo import UpfData
from aiida_quantumespresso.calculations.pw import PwCalculation
from ase import Atoms
from ase.build import bulk, fcc100, molecule

from aiida_mlipal.calculations.frames import frame_kinds, kpoint_mesh, variant_key
from aiida_mlipal.calculations.pw_inputs import pw_parameters
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.level_of_theory import difference
from aiida_mlipal.science.seeds import generate
from aiida_mlipal.workflows.engines import engine_names, load_engine
from aiida_mlipal.workflows.engines.pw_level_of_theory import functional_of
from aiida_mlipal.workflows.engines.quantumespresso import QuantumEspressoEngine
from aiida_mlipal.workflows.label import LabelWorkChain

VALENCES = {'H': 1.0, 'C': 4.0, 'O': 6.0, 'Si': 4.0, 'Fe': 8.0}


def _system(parameters: dict, frames: Configurations, index: int = 0) -> dict:
    return pw_parameters({'SYSTEM': parameters}, frames, index, VALENCES)['SYSTEM']


def _with(inputs, namelist: str, values: dict) -> dict:
    """Return ``inputs`` with some keywords changed."""
    parameters = deepcopy(inputs['parameters'].get_dict())
    parameters[namelist] |= values
    return {**inputs, 'parameters': orm.Dict(parameters)}


def _iron(moments: list[float], **columns) -> Configurations:
    atoms = bulk('Fe', cubic=True)
    atoms.set_initial_magnetic_moments(moments)
    return Configurations.from_atoms([atoms], **columns)


def test_engines_are_found_by_name():
    assert {'ase', 'quantumespresso'} <= set(engine_names())
    assert isinstance(load_engine('quantumespresso'), QuantumEspressoEngine)
    with pytest.raises(ValueError, match=r'unknown label engine `vasp`; installed are .*quantumespresso'):
        load_engine('vasp')


def test_mesh_is_fixed_through_a_strain_series_where_a_bare_distance_jumps():
    parent = Configurations.from_atoms([bulk('Si', cubic=True)])
    recipe = [{'generator': 'isotropic_strain', 'n_frames': 9, 'min': -0.1, 'max': 0.1}]
    frames = generate(parent, recipe, seed=1)
    distance = 0.38
    ours = {kpoint_mesh(frames, index, distance, [0, 0, 0])[0] for index in range(len(frames))}
    bare = set()
    for atoms in frames.to_atoms():
        kpoints = orm.KpointsData()
        kpoints.set_cell(atoms.cell.array, pbc=atoms.pbc)
        kpoints.set_kpoints_mesh_from_density(distance)
        bare.add(tuple(kpoints.get_kpoints_mesh()[0]))
    assert len(ours) == 1
    assert len(bare) > 1
    reference = orm.KpointsData()
    reference.set_cell(parent.cell[0], pbc=(True, True, True))
    reference.set_kpoints_mesh_from_density(distance)
    assert ours == {tuple(reference.get_kpoints_mesh()[0])}


def test_no_k_points_where_nothing_repeats():
    """One k-point along the vacuum of a slab, shifted nowhere; Γ for a molecule, with or without a box."""
    slab = fcc100('Al', (1, 1, 3), vacuum=8)
    water = molecule('H2O')
    frames = Configurations.from_atoms([slab, water])
    mesh, offset = kpoint_mesh(frames, 0, 0.5, [0.5, 0.5, 0.5])
    assert (mesh, offset) == ((5, 5, 1), (0.5, 0.5, 0.0))
    assert kpoint_mesh(frames, 1, 0.5, [0.5, 0.5, 0.5]) == ((1, 1, 1), (0.0, 0.0, 0.0))


def test_isolated_atom_is_polarised_at_gamma():
    frames = generate(Configurations.from_atoms([bulk('Si')]), [{'generator': 'isolated_atoms'}], seed=1)
    index = int(np.flatnonzero(frames.multiplicity == 3)[0])
    assert kpoint_mesh(frames, index, 0.1, [0.5, 0.5, 0.5]) == ((1, 1, 1), (0.0, 0.0, 0.0))
    slab = {'ecutwfc': 20, 'smearing': 'cold', 'degauss': 0.02, 'assume_isolated': '2D', 'tot_charge': 1}
    system = _system(slab, frames, index)
    assert system['nspin'] == 2
    assert system['tot_magnetization'] == 2
    assert system['starting_magnetization'] == {'Si': 0.5}
    assert system['ecutwfc'] == 20
    assert system['degauss'] < 0.01
    assert not {'assume_isolated', 'tot_charge'} & set(system)
    assert len(np.unique(frames.cell[index].diagonal().round(3))) == 3


def test_charge_and_spin_of_a_frame_reach_the_input():
    frames = Configurations.from_atoms([bulk('Si')], charge=-1, multiplicity=2)
    system = _system({}, frames)
    assert (system['tot_charge'], system['tot_magnetization'], system['nspin']) == (-1, 1, 2)
    neutral = Configurations.from_atoms([bulk('Si')])
    assert _system({'ecutwfc': 20}, neutral) == {'ecutwfc': 20}


def test_two_triplets_of_two_elements_are_two_sets_of_parameters():
    """The kinds that ``starting_magnetization`` names must be those of the frame."""
    frames = Configurations.from_atoms([Atoms('C', cell=[9] * 3), Atoms('O', cell=[9] * 3)], multiplicity=3)
    variants = [pw_parameters({'SYSTEM': {}}, frames, index, VALENCES) for index in (0, 1)]
    assert [set(variant['SYSTEM']['starting_magnetization']) for variant in variants] == [{'C'}, {'O'}]
    assert variant_key(variants[0]) != variant_key(variants[1])


def test_atoms_of_one_element_and_several_moments_are_kinds_in_the_order_of_the_frame():
    atoms = Atoms('FeOFeFeO', positions=np.arange(15).reshape(5, 3), cell=[20] * 3, pbc=True)
    atoms.set_initial_magnetic_moments([-4.0, 0.0, 4.0, -4.00001, 0.0])
    frames = Configurations.from_atoms([atoms])
    names, kinds = frame_kinds(frames, 0)
    assert names == ['Fe2', 'O', 'Fe1', 'Fe2', 'O']
    assert kinds == {'Fe1': ('Fe', 4.0), 'Fe2': ('Fe', -4.0), 'O': ('O', 0.0)}
    system = _system({'nspin': 2, 'hubbard_u': {'Fe': 4.6, 'Si': 1.0}, 'lda_plus_u': True}, frames)
    assert system['starting_magnetization'] == {'Fe1': 0.5, 'Fe2': -0.5, 'O': 0.0}
    assert system['hubbard_u'] == {'Fe1': 4.6, 'Fe2': 4.6}


def test_an_element_without_u_is_computed_without():
    """pw.x stops if `lda_plus_u` is set and no kind has a U, as for the isolated oxygen atom of an oxide."""
    oxygen = Configurations.from_atoms([Atoms('O', cell=[9] * 3)])
    assert _system({'lda_plus_u': True, 'lda_plus_u_kind': 0, 'hubbard_u': {'Fe': 4.6}}, oxygen) == {}


def test_moments_by_element_of_the_parameters_serve_frames_without():
    frames = _iron([0.0, 0.0])
    assert _system({'nspin': 2, 'starting_magnetization': {'Fe': 0.3, 'O': 0.1}}, frames)['starting_magnetization'] == {
        'Fe': 0.3
    }


@pytest.mark.codes
def test_structures_keep_the_order_of_atoms_and_carry_u_as_a_card(iron_inputs):
    atoms = bulk('Fe', cubic=True) * (2, 1, 1)
    atoms.set_initial_magnetic_moments([-2.0, 2.0, -2.0, 2.0])
    frames = ConfigurationsData(Configurations.from_atoms([atoms]))
    engine = QuantumEspressoEngine()
    frames.store()
    task = engine.alone('frame_00000', engine.tasks(frames, iron_inputs)['frame_00000'].inputs, iron_inputs)
    assert [site.kind_name for site in task['structure'].sites] == ['Fe2', 'Fe1', 'Fe2', 'Fe1']
    np.testing.assert_array_equal([site.position for site in task['structure'].sites], atoms.positions)
    _, inputs = engine.process(task, iron_inputs, {})
    assert sorted(inputs['pw']['pseudos']) == ['Fe1', 'Fe2']

    from aiida_quantumespresso.utils.hubbard import HubbardUtils

    with_u = {**iron_inputs, 'hubbard': orm.Dict({'projectors': 'ortho-atomic', 'U': {'Fe-3d': 4.6}}).store()}
    structure = engine.alone('frame_00000', engine.tasks(frames, with_u)['frame_00000'].inputs, with_u)['structure']
    card = [line.split() for line in HubbardUtils(structure).get_hubbard_card().splitlines()]
    assert card == [['HUBBARD', 'ortho-atomic'], ['U', 'Fe1-3d', '4.6'], ['U', 'Fe2-3d', '4.6']]
    np.testing.assert_array_equal([site.position for site in structure.sites], atoms.positions)
    assert difference(engine.level_of_theory(iron_inputs), engine.level_of_theory(with_u)) == [
        'hubbard.U.Fe-3d: (absent) -> 4.6',
        'hubbard.projectors: (absent) -> ortho-atomic',
    ]
    assert engine.describe(with_u).get_dict() == engine.level_of_theory(with_u)


def test_inputs_that_another_worker_is_making_are_not_taken_for_complete(iron_inputs):
    """AiiDA sets the exit status of a calculation before it attaches its outputs, one by one, and then seals it."""
    frames = ConfigurationsData(_iron([2.0, 2.0])).store()
    half = orm.CalcFunctionNode()
    half.set_process_label('prepare_pw_inputs')
    given = {name: iron_inputs[name] for name in ('parameters', 'kpoints_distance', 'kpoints_offset')}
    for label, node in {'frames': frames, **given, **iron_inputs['pseudos']}.items():
        half.base.links.add_incoming(node.store(), LinkType.INPUT_CALC, label)
    half.store()
    half.set_exit_status(0)
    engine = load_engine('quantumespresso')
    task = engine.tasks(frames, iron_inputs)['frame_00000'].inputs
    made = engine.alone('frame_00000', task, iron_inputs)
    assert {node.creator.process_label for node in made.values()} == {'prepare_pw_inputs'}
    assert half.pk not in {node.creator.pk for node in made.values()}
    again = engine.alone('frame_00000', task, iron_inputs)
    assert {name: node.pk for name, node in again.items()} == {name: node.pk for name, node in made.items()}


def _started(process: Any, inputs: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Return what a job would upload beside the pseudopotentials, and its hash."""
    job: Any = instantiate_process(get_manager().get_runner(), process, **inputs)
    with SandboxFolder() as folder:
        job.prepare_for_submission(folder)
        contents = {path.name: path.read_text() for path in Path(folder.abspath).rglob('*.in')}
    job.close()
    job.node.set_process_state('killed')
    job.node.seal()
    return contents, job.node.base.caching.get_hash()


@pytest.mark.codes
def test_a_shared_job_gives_pw_what_a_job_of_its_own_gives(iron_inputs):
    """Charge, spin, moments, Hubbard U and k-points of each frame, down to the bytes of its input file."""
    atoms = bulk('Fe', cubic=True)
    frames = []
    for moments, strain in (([2.2, 2.2], 1.0), ([-2.2, 2.2], 1.02), ([1.0, 3.0], 0.6)):
        frame = atoms.copy()
        frame.set_initial_magnetic_moments(moments)
        frame.set_cell(frame.cell * strain, scale_atoms=True)
        frames.append(frame)
    columns = {'charge': [0, 0, 1], 'multiplicity': [0, 0, 2]}
    chunk = ConfigurationsData(Configurations.from_atoms(frames, **columns)).store()
    inputs = {**iron_inputs, 'hubbard': orm.Dict({'U': {'Fe-3d': 4.6}}).store()}
    engine, options = load_engine('quantumespresso'), {'resources': {'num_machines': 1}}
    given = {label: task.inputs for label, task in engine.tasks(chunk, inputs).items() if label != 'frame_00001'}
    process, batch = engine.share(given, inputs, options)
    together, own_hash = _started(process, batch)
    assert sorted(together) == ['frame_00000.in', 'frame_00002.in']
    for label, task in given.items():
        _, base = engine.process(engine.alone(label, task, inputs), inputs, options)
        alone, _ = _started(PwCalculation, {**base['pw'], 'kpoints': base['kpoints']})
        own = alone['aiida.in'].replace("outdir = './out/'", f"outdir = './{label}/'")
        assert together[f'{label}.in'] == own
        assert 'HUBBARD' in own
    _, same_hash = _started(*engine.share(given, inputs, options))
    _, other_hash = _started(*engine.share({'frame_00000': given['frame_00000']}, inputs, options))
    assert own_hash == same_hash != other_hash, 'for AiiDA, the same job does the same frames'


@pytest.mark.codes
@pytest.mark.parametrize(
    ('name', 'functional'),
    [
        ('Si.pz-vbc.UPF', 'PZ'),
        ('Si.pbe-rrkj.UPF', 'PBE'),
        ('Li.pbesol-s-rrkjus_psl.0.2.1.UPF', 'PBESOL'),
        ('O.blyp-mt.UPF', 'BLYP'),
    ],
)
def test_functional_of_a_pseudopotential(pseudo_dir, name, functional):
    assert functional_of(UpfData.get_or_create(pseudo_dir / name)) == functional


@pytest.mark.codes
def test_two_functionals_are_refused(quick_pw_label, pseudo_dir):
    inputs = dict(quick_pw_label['engine_inputs'])
    engine = QuantumEspressoEngine()
    assert engine.validate(inputs) is None
    other = UpfData.get_or_create(pseudo_dir / 'Li.pbesol-s-rrkjus_psl.0.2.1.UPF')
    message = engine.validate({**inputs, 'pseudos': {**inputs['pseudos'], 'Li': other}})
    assert "functionals are mixed: the pseudopotentials name {'Li': 'PBESOL', 'Si': 'PZ'}" in message
    assert 'and `input_dft` is PBE' in engine.validate(_with(inputs, 'SYSTEM', {'input_dft': 'PBE'}))


@pytest.mark.codes
def test_level_of_theory_ignores_what_only_steers_the_solver(quick_pw_label):
    engine, inputs = QuantumEspressoEngine(), dict(quick_pw_label['engine_inputs'])
    theory = engine.level_of_theory(inputs)
    assert engine.describe(inputs).get_dict() == theory
    system = {'nbnd': 12, 'nspin': 1, 'vdw_corr': 'none', 'starting_magnetization': {'Si': 0.2}}
    electrons = {'mixing_beta': 0.1, 'diagonalization': 'cg', 'mixing_mode': 'local-TF'}
    steered = _with(_with(inputs, 'SYSTEM', system), 'ELECTRONS', electrons)
    assert engine.level_of_theory(steered) == theory


@pytest.mark.codes
@pytest.mark.parametrize(
    ('keyword', 'value', 'line'),
    [
        ('ecutwfc', 13.0, 'system.ecutwfc: 12.0 -> 13.0'),
        ('nspin', 2, 'system.nspin: (absent) -> 2'),
        ('vdw_corr', 'grimme-d3', 'system.vdw_corr: (absent) -> grimme-d3'),
        ('hubbard_u', {'Si': 1.0}, 'system.hubbard_u.Si: (absent) -> 1.0'),
        ('tot_charge', 1, 'system.tot_charge: (absent) -> 1'),
        ('assume_isolated', '2D', 'system.assume_isolated: (absent) -> 2D'),
    ],
)
def test_level_of_theory_shows_what_changes_the_energy(quick_pw_label, keyword, value, line):
    engine, inputs = QuantumEspressoEngine(), dict(quick_pw_label['engine_inputs'])
    other = engine.level_of_theory(_with(inputs, 'SYSTEM', {keyword: value}))
    assert difference(engine.level_of_theory(inputs), other) == [line]


@pytest.mark.codes
@pytest.mark.parametrize(
    ('namelist', 'values', 'message'),
    [
        ('CONTROL', {'calculation': 'relax'}, 'would move the atoms of a frame'),
        ('CONTROL', {'tprnfor': False}, 'would print no forces: set `CONTROL: {tprnfor: true}`'),
        ('SYSTEM', {'nspin': 2, 'occupations': 'fixed'}, 'fixed occupations with `nspin: 2` need `tot_magnetization`'),
        ('SYSTEM', {'starting_magnetization': [0.3]}, 'must be given by element'),
    ],
)
def test_bad_parameters_are_refused(quick_pw_label, namelist, values, message):
    inputs = _with(quick_pw_label['engine_inputs'], namelist, values)
    assert message in QuantumEspressoEngine().validate(inputs)


@pytest.mark.codes
def test_stress_is_told_from_the_parameters(quick_pw_label):
    inputs = dict(quick_pw_label['engine_inputs'])
    assert QuantumEspressoEngine().gives_stress(inputs)
    assert not QuantumEspressoEngine().gives_stress(_with(inputs, 'CONTROL', {'tstress': False}))


@pytest.mark.codes
def test_a_crystal_without_stress_is_refused(quick_pw_label):
    inputs = _with(quick_pw_label['engine_inputs'], 'CONTROL', {'tstress': False})
    label = {**quick_pw_label, 'engine_inputs': inputs}
    frames = ConfigurationsData(Configurations.from_atoms([bulk('Si', a=a) for a in (5.4, 5.5, 5.6)]))
    with pytest.raises(
        ValueError, match=r'frame 0 \(and 2 more\) is periodic.* switch it on \(pw\.x `CONTROL: \{tstress'
    ):
        run_get_node(LabelWorkChain, configurations=frames, **label)


@pytest.mark.codes
def test_a_campaign_file_with_moments_is_spin_polarised(tmp_path, pw_code, python_code, pseudo_family):
    """From YAML to the frames that the engine gets; what the structures lack is refused in the file."""
    from aiida_mlipal.calculations.functions.seeds import structures_to_configurations
    from aiida_mlipal.workflows.campaign_file import build, load_campaign
    from aiida_mlipal.workflows.campaign_inputs import validate_campaign

    bulk('Fe', cubic=True).write(tmp_path / 'iron.cif')
    text = f"""
        structures: [iron.cif]
        initial_moments: [[2.2, -2.2]]
        seeds: [{{generator: rattle, n_frames: 9}}]
        label: {{code: {pw_code.full_label}, pseudo_family: {pseudo_family}, parameters: {{SYSTEM: {{ecutwfc: 24}}}}}}
        train: {{code: {python_code.full_label}}}
    """
    (tmp_path / 'campaign.yaml').write_text(dedent(text))
    builder = build(load_campaign(tmp_path / 'campaign.yaml'))
    assert builder.label['engine_inputs']['parameters'].get_dict()['SYSTEM']['nspin'] == 2
    structures = {name: node.store() for name, node in builder.seeds.structures.items()}
    parents = structures_to_configurations(builder.seeds.settings.store(), **structures).configurations
    assert parents.initial_moments.tolist() == [2.2, -2.2]
    assert validate_campaign(builder, None) is None

    (tmp_path / 'campaign.yaml').write_text(dedent(text).replace('[[2.2, -2.2]]', '{Co: 1.7}'))
    problem = validate_campaign(build(load_campaign(tmp_path / 'campaign.yaml')), None)
    assert "`initial_moments` names ['Co'], but the structures consist of ['Fe']" in problem


def _boxed(symbols: str, size: float, **columns) -> Configurations:
    atoms = molecule(symbols)
    atoms.set_cell([size] * 3)
    atoms.center()
    return Configurations.from_atoms([atoms], **columns)


@pytest.mark.codes
@pytest.mark.parametrize(
    ('frames', 'system', 'message'),
    [
        (Configurations.from_atoms([bulk('Ge')]), {}, r'no pseudopotential for Ge: the inputs have Al, Fe, H, Si\.'),
        (Configurations.from_atoms([molecule('H2')]), {}, r'is not periodic and has no box.*center\(vacuum=6\)'),
        (_boxed('H2', 4.0), {}, r'not periodic along a, where only 4\.0 Å of vacuum .* expected 6 Å or more'),
        (_boxed('H2', 9.0), {}, None),
        (Configurations.from_atoms([fcc100('Al', (1, 1, 2), vacuum=2)]), {}, r'along c, where only 4\.0 Å'),
        (Configurations.from_atoms([fcc100('Al', (1, 1, 2), vacuum=4)]), {}, None),
        (_boxed('H2', 9.0, multiplicity=2), {}, r'frame 0 has 2 electrons and multiplicity 2: an odd number'),
        (_boxed('H2', 9.0, charge=1, multiplicity=2), {}, r'has charge \+1, .* uniform background .*assume_isolated'),
        (_boxed('H2', 9.0, charge=1, multiplicity=2), {'assume_isolated': 'martyna-tuckerman'}, None),
        (Configurations.from_atoms([bulk('Si')], charge=-1), {}, r'if the background is meant.*tot_charge: -1'),
        (Configurations.from_atoms([bulk('Si')], charge=-1), {'tot_charge': -1}, None),
        (Configurations.from_atoms([bulk('Si')]), {'tot_charge': -1}, r'has charge \+0, but .*tot_charge: -1.* all'),
        (_iron([2.0, 2.0]), {}, r'has initial moments, but the inputs have `nspin: 1`: set `SYSTEM: {nspin: 2}`'),
        (_iron([2.0, 2.0]), {'nspin': 2}, None),
        (_iron([0.0, 0.0]), {'nspin': 2}, r'would find the non-magnetic state: set `initial_moments`'),
        (_iron([0.0, 0.0]), {'nspin': 2, 'starting_magnetization': {'Fe': 0.3}}, None),
        (_iron([9.0, 2.0]), {'nspin': 2}, r'moment of 9 µB on Fe, more than its 8 valence electrons'),
    ],
)  # fmt: skip
def test_frames_that_pw_cannot_label_are_refused_with_the_mend(all_elements, frames, system, message):
    problems = QuantumEspressoEngine().check_frames(frames, _with(all_elements, 'SYSTEM', system))
    if message is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert re.search(message, problems[0]), problems


@pytest.mark.codes
def test_isolated_atoms_are_exempt_from_the_spin_of_the_level(iron_inputs):
    frames = generate(_iron([2.2, 2.2]), [{'generator': 'unchanged'}, {'generator': 'isolated_atoms'}], seed=1)
    assert frames.has_role('isolated_atom').sum() > 1
    assert QuantumEspressoEngine().check_frames(frames, iron_inputs) == []


@pytest.mark.codes
def test_too_many_kinds_are_refused(iron_inputs):
    atoms = bulk('Fe', cubic=True) * (2, 2, 2)
    atoms.set_initial_magnetic_moments(np.linspace(1, 2, 16))
    (problem,) = QuantumEspressoEngine().check_frames(Configurations.from_atoms([atoms]), iron_inputs)
    assert 'has 16 kinds of atoms by element and initial moment, pw.x knows 10' in problem


@pytest.fixture
def all_elements(quick_pw_label, pseudo_family):
    """Return the inputs of quick calculations with a pseudopotential for every element of the family."""
    family = orm.load_group(pseudo_family)
    pseudos = {element: family.get_pseudo(element) for element in family.elements}
    return {**quick_pw_label['engine_inputs'], 'pseudos': pseudos}


@pytest.fixture
def iron_inputs(all_elements):
    """Return the stored inputs of spin-polarised calculations of iron."""
    inputs = _with(all_elements, 'SYSTEM', {'nspin': 2, 'ecutwfc': 24.0, 'ecutrho': 200.0})
    inputs['pseudos'] = {'Fe': all_elements['pseudos']['Fe']}
    for value in inputs.values():
        if isinstance(value, orm.Data):
            value.store()
    return inputs
