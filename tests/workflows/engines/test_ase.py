"""Labels from ASE calculators through real jobs: values, failures as rows, jobs that die, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain
from tests.committee import copper
from tests.runners.test_label import DEADLY

pytestmark = pytest.mark.codes


@pytest.fixture
def ase_label(python_code):
    """Return a function that makes the inputs of a LabelWorkChain from those of the calculator."""

    def make(calculator='emt', parameters=None, checks=None, environment=None, **more):
        options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'max_wallclock_seconds': 600}
        if environment:
            options['environment_variables'] = environment
        settings = {'parameters': {'calculator': calculator, 'parameters': parameters or {}}, **more}
        return {
            'engine': orm.Str('ase'),
            'engine_inputs': load_engine('ase').build(python_code, [], settings, options),
            'checks': orm.Dict({'max_failed_share': 0.9, **(checks or {})}),
        }

    return make


def test_labels_failures_and_costs(ase_label):
    """One job labels all frames; a hopeless one is a row with its reason; each frame has its own cost."""
    hopeless = copper(2)
    hopeless.positions[1] = hopeless.positions[0]
    frames = Configurations.from_atoms([copper(1), hopeless, copper(3, repeat=(2, 2, 2))])
    inputs = {**ase_label(), 'reuse': orm.Bool(False)}  # another test may have labelled these
    node = run_get_node(LabelWorkChain, configurations=ConfigurationsData(frames), **inputs)[1]
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels.configurations
    assert labels.status.tolist() == ['labelled', 'rejected', 'labelled']
    assert labels.reason[1].startswith('ValueError: ')
    atoms = copper(1)
    atoms.calc = EMT()
    assert labels.energy[0] == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(labels.stress[0], atoms.get_stress())
    assert node.outputs.level_of_theory.get_dict() == {'code': 'ase', 'calculator': 'emt', 'parameters': {}}
    assert trace(node).gaps == []

    costs = node.outputs.costs.chunk_000.get_dict()
    assert costs['n_attempts'] == [1, 1, 1]
    assert costs['n_electrons'] == [116, None, 928]
    (job,) = (process for process in node.called_descendants if isinstance(process, orm.CalcJobNode))
    assert sum(costs['wall_s']) == pytest.approx(job.outputs.results['wall_s'], abs=0.01)
    own = job.outputs.results['frame_wall_s']
    assert costs['wall_s'][2] - costs['wall_s'][0] == pytest.approx(own[2] - own[0])


def test_no_label_is_paid_twice(ase_label):
    """A frame that comes twice is computed once; other ranks or scheduler lines change nothing about a label."""
    frames = Configurations.from_atoms([copper(21), copper(22), copper(21)])
    assert len(set(frames.frame_id.tolist())) == 2
    first = run_get_node(LabelWorkChain, configurations=ConfigurationsData(frames), **ase_label())[1]
    (job,) = (process for process in first.called_descendants if isinstance(process, orm.CalcJobNode))
    assert job.inputs.configurations.n_frames == 2
    labels = first.outputs.labels.configurations
    assert labels.is_labelled.all()
    assert labels.frame_id.tolist() == frames.frame_id.tolist()
    assert labels.energy[0] == labels.energy[2] != labels.energy[1]

    inputs = ase_label()
    options = inputs['engine_inputs']['options'].get_dict()
    options['resources'] = {'num_machines': 1, 'num_mpiprocs_per_machine': 2}
    options['custom_scheduler_commands'] = '# in another queue'
    inputs['engine_inputs']['options'] = orm.Dict(options)
    again = run_get_node(LabelWorkChain, configurations=ConfigurationsData(frames), **inputs)[1]
    assert not [process for process in again.called_descendants if isinstance(process, orm.CalcJobNode)]
    np.testing.assert_array_equal(again.outputs.labels.configurations.energy, labels.energy)
    query = orm.QueryBuilder().append(orm.CalcJobNode, filters={'id': job.pk}, tag='job')
    query.append(ConfigurationsData, filters={'id': again.outputs.labels.pk}, with_ancestors='job')
    assert query.count() == 1, 'a label leads to the calculation that made it, whoever paid'


def test_a_charged_radical_through_the_workchain(ase_label):
    """The ionisation energy of water with GFN2-xTB: charge and multiplicity of a frame reach the program."""
    frames = Configurations.from_atoms([molecule('H2O')] * 2, charge=[0, 1], multiplicity=[1, 2])
    inputs = ase_label('tblite', {'verbosity': 0})
    node = run_get_node(LabelWorkChain, configurations=ConfigurationsData(frames), **inputs)[1]
    neutral, cation = node.outputs.labels.configurations.energy
    assert 10 < cation - neutral < 20  # measured: 12.6 eV


def test_frames_that_kill_the_job_take_nothing_with_them(ase_label, tmp_path):
    """Each attempt goes on where the last one died; the two deadly frames end as rows, the others are labelled."""
    (tmp_path / 'deadly.py').write_text(DEADLY)
    deadly = [Atoms('Cu3', positions=[[0, 0, 0], [0, 0, z], [0, 2.5, 0]]) for z in (2.5, 2.6)]
    frames = Configurations.from_atoms([copper(1), deadly[0], copper(2), deadly[1], copper(3)])
    inputs = ase_label('deadly.Deadly', environment={'PYTHONPATH': str(tmp_path)})
    inputs['max_attempts'] = orm.Int(3)
    node = run_get_node(LabelWorkChain, configurations=ConfigurationsData(frames), **inputs)[1]
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels.configurations
    assert labels.status.tolist() == ['labelled', 'rejected', 'labelled', 'rejected', 'labelled']
    assert labels.reason[1].startswith('the job ended while this frame was computed: AseLabelCalculation exited with')
    assert trace(node).gaps == []
    jobs = sorted(
        (process for process in node.called_descendants if isinstance(process, orm.CalcJobNode)), key=lambda job: job.pk
    )
    assert [job.exit_status for job in jobs] == [300, 300, 300]
    done = [[second is not None for second in job.outputs.results['frame_wall_s']] for job in jobs]
    assert [row.index(True) for row in done] == [0, 2, 4]
    assert [sum(row) for row in done] == [1, 1, 1]
    assert node.outputs.costs.chunk_000['n_attempts'] == [3] * 5

    again = run_get_node(LabelWorkChain, configurations=ConfigurationsData(frames), **inputs)[1]
    jobs = [process for process in again.called_descendants if isinstance(process, orm.CalcJobNode)]
    assert all(job.inputs.configurations.n_frames == 2 for job in jobs), 'a repetition only repeats what failed'
    np.testing.assert_array_equal(again.outputs.labels.configurations.energy, labels.energy)


@pytest.mark.parametrize(
    ('status', 'options', 'changed'),
    [
        (120, {'max_wallclock_seconds': 600}, {'max_wallclock_seconds': 1200}),
        (110, {'max_wallclock_seconds': 600, 'max_memory_kb': 1000}, {'max_memory_kb': 2000}),
        (110, {'max_wallclock_seconds': 600}, {}),
        (140, {'max_wallclock_seconds': 600}, {}),
        (310, {'max_wallclock_seconds': 600}, None),
    ],
)
def test_what_is_tried_again(aiida_localhost, status, options, changed):
    """What the scheduler ended goes on with more; what the program itself refused would be refused again."""
    engine = load_engine('ase')
    frames = ConfigurationsData(Configurations.from_atoms([copper(1), copper(2)]))
    job = orm.CalcJobNode(computer=aiida_localhost, process_type='aiida.calculations:mlipal.ase.label')
    job.set_exit_status(status)
    job.store()
    assert engine.retry(job, 1, {}, {}, options) is None, 'it never began'
    labels = ConfigurationsData(frames.configurations)
    labels.base.links.add_incoming(job, LinkType.CREATE, 'labels')
    labels.store()
    retry = engine.retry(job, 1, {}, {}, options)
    if changed is None:
        assert retry is None
    else:
        assert retry.options == changed
        assert retry.inputs['previous'].pk == labels.pk


@pytest.mark.parametrize(
    ('label', 'atoms', 'columns', 'message'),
    [
        ({'calculator': 'tblight'}, copper(1), {}, 'Did you mean `tblite`'),
        ({'calculator': 'ase.calculators.emt.Emt'}, copper(1), {}, 'has no class `Emt`'),
        ({'calculator': 'lj', 'parameters': {'epsilom': 1}}, copper(1), {}, 'Did you mean `epsilon`'),
        ({'calculator': 'emt'}, bulk('Si'), {}, 'the calculator `emt` knows no Si'),
        ({'calculator': 'tblite'}, molecule('NO'), {'multiplicity': 1}, '15 electrons and multiplicity 1'),
        ({'calculator': 'tblite', 'parameters': {'charge': 1}}, molecule('NO'), {}, 'set their column `charge`'),
        ({'calculator': 'tblite'}, bulk('Si'), {'charge': 1}, 'make them neutral, or non-periodic'),
        ({'calculator': 'emt'}, copper(1), {'charge': 1}, 'as if they were neutral: choose .* `tblite`'),
        ({'calculator': 'mace'}, copper(1), {}, 'no model was given'),
        ({'calculator': 'ase.calculators.tip3p.TIP3P'}, copper(1), {}, '`require_stress: false`'),
    ],
)
def test_refused_before_submission(ase_label, label, atoms, columns, message):
    """Each message says what to type instead."""
    frames = ConfigurationsData(Configurations.from_atoms([atoms], **columns))
    with pytest.raises(ValueError, match=message):
        run_get_node(LabelWorkChain, configurations=frames, **ase_label(**label))


def test_without_a_stress_where_none_is_required(ase_label):
    """The mend of the message above works: the inputs are accepted, and the frame has energy and forces."""
    water = molecule('H2O', cell=[8, 8, 8], pbc=True)
    inputs = ase_label('ase.calculators.tip3p.TIP3P', {'rc': 3.5}, checks={'require_stress': False})
    node = run_get_node(
        LabelWorkChain, configurations=ConfigurationsData(Configurations.from_atoms([water])), **inputs
    )[1]
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all()
    assert np.isnan(labels.stress).all()
