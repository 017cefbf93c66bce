"""What pw.x is asked for: mesh, spin, charge, and a level of theory that mixes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from ase.build import bulk

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.seeds import generate
from aiida_mlipal.workflows.engines import engine_names, load_engine
from aiida_mlipal.workflows.engines.quantumespresso import QuantumEspressoEngine, _mesh, _variant, functional_of


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
    ours = {_mesh(frames, index, distance) for index in range(len(frames))}
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


def test_isolated_atom_is_polarised_at_gamma():
    frames = generate(Configurations.from_atoms([bulk('Si')]), [{'generator': 'isolated_atoms'}], seed=1)
    index = int(np.flatnonzero(frames.multiplicity == 3)[0])
    assert _mesh(frames, index, 0.1) == (1, 1, 1)
    system = _variant({'SYSTEM': {'ecutwfc': 20, 'smearing': 'cold', 'degauss': 0.02}}, frames, index)['SYSTEM']
    assert system['nspin'] == 2
    assert system['tot_magnetization'] == 2
    assert system['starting_magnetization'] == {'Si': 0.5}
    assert system['ecutwfc'] == 20
    assert system['degauss'] < 0.01
    assert len(np.unique(frames.cell[index].diagonal().round(3))) == 3


def test_charge_and_spin_of_a_frame_reach_the_input():
    frames = Configurations.from_atoms([bulk('Si')], charge=-1, multiplicity=2)
    system = _variant({'SYSTEM': {}}, frames, 0)['SYSTEM']
    assert (system['tot_charge'], system['tot_magnetization'], system['nspin']) == (-1, 1, 2)
    neutral = Configurations.from_atoms([bulk('Si')])
    assert _variant({'SYSTEM': {'ecutwfc': 20}}, neutral, 0)['SYSTEM'] == {'ecutwfc': 20}


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
    from aiida_pseudo.data.pseudo import UpfData

    assert functional_of(UpfData.get_or_create(pseudo_dir / name)) == functional


@pytest.mark.codes
def test_two_functionals_are_refused(quick_pw_label, pseudo_dir):
    from aiida_pseudo.data.pseudo import UpfData

    inputs = dict(quick_pw_label['engine_inputs'])
    engine = QuantumEspressoEngine()
    assert engine.validate(inputs) is None
    other = UpfData.get_or_create(pseudo_dir / 'Li.pbesol-s-rrkjus_psl.0.2.1.UPF')
    message = engine.validate({**inputs, 'pseudos': {**inputs['pseudos'], 'Li': other}})
    assert "functionals are mixed: the pseudopotentials name {'Li': 'PBESOL', 'Si': 'PZ'}" in message
    parameters = inputs['parameters'].get_dict()
    parameters['SYSTEM']['input_dft'] = 'PBE'
    assert 'and `input_dft` is PBE' in engine.validate({**inputs, 'parameters': orm.Dict(parameters)})


@pytest.mark.codes
def test_level_of_theory_ignores_what_only_steers_the_solver(quick_pw_label):
    engine, inputs = QuantumEspressoEngine(), dict(quick_pw_label['engine_inputs'])
    theory = engine.level_of_theory(inputs)
    assert engine.describe(inputs).get_dict() == theory
    steered = inputs['parameters'].get_dict()
    steered['SYSTEM']['nbnd'] = 12
    steered['ELECTRONS']['mixing_beta'] = 0.1
    assert engine.level_of_theory({**inputs, 'parameters': orm.Dict(steered)}) == theory
    steered['SYSTEM']['ecutwfc'] = 13.0
    assert engine.level_of_theory({**inputs, 'parameters': orm.Dict(steered)}) != theory
