"""A campaign that starts from calculations which are years old: nothing is paid for again, and nothing is forgotten."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import WorkflowFactory
from ase import Atoms
from ase.build import bulk
from click.testing import CliRunner

from aiida_mlipal.cli import main
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows.campaign_file import build, load_campaign
from tests.workflows.conftest import pseudo_family, pw_code  # noqa: F401

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(1800)]

SYSTEM = {'ecutwfc': 12.0, 'occupations': 'smearing', 'smearing': 'cold', 'degauss': 0.02}
N_OLD = 10
CAMPAIGN = """
    protocol: fast
    seed: 12
    structures: [{structure}]
    dataset: {dataset}
    seeds: [{{generator: unchanged}}]
    label:
      code: {label}
      pseudo_family: {family}
      kpoints_distance: {distance}
      max_concurrent: 2
      parameters: {{SYSTEM: {{ecutwfc: 12.0, degauss: 0.02}}}}
    train: {{code: {train}, n_members: 2, settings: {{num_channels: 8, r_max: 4.0, max_num_epochs: 20, batch_size: 2}}}}
    explore: {{settings: {{temperatures: [300, 900], n_replicas_per_temperature: 2, n_steps: 60, stride: 5}}}}
    selection: {{n_labels: 6, random_share: 0.5}}
    convergence: {{n_test_frames: 2}}
    budget: {{max_iterations: 1}}
    validation: {{eos: false}}
"""


def _old_structures() -> list[Atoms]:
    rng = np.random.default_rng(31)
    frames = []
    for _ in range(N_OLD):
        atoms = bulk('Si', a=5.43)
        atoms.positions += rng.normal(scale=0.12, size=(2, 3))
        frames.append(atoms)
    return frames


@pytest.fixture
def old_calculations(pw_code, pseudo_family) -> list[orm.WorkChainNode]:  # noqa: F811
    """Return single points that were computed without this package."""
    family = orm.load_group(pseudo_family)
    nodes = []
    for atoms in _old_structures():
        builder = WorkflowFactory('quantumespresso.pw.base').get_builder()
        builder.kpoints_distance = orm.Float(1.2)
        builder.pw.code = pw_code
        builder.pw.structure = orm.StructureData(ase=atoms)
        builder.pw.pseudos = {'Si': family.get_pseudo('Si')}
        builder.pw.parameters = orm.Dict(
            {'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True}, 'SYSTEM': SYSTEM,
             'ELECTRONS': {'conv_thr': 1e-9}}
        )  # fmt: skip
        builder.pw.metadata.options = {
            'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1},
            'withmpi': False,
        }
        _, node = run_get_node(builder)
        assert node.is_finished_ok, node.exit_message
        nodes.append(node)
    return nodes


def _jobs(node: orm.WorkChainNode) -> list[orm.CalcJobNode]:
    return [job for job in node.called_descendants if job.process_type == 'aiida.calculations:quantumespresso.pw']


def test_a_campaign_from_harvested_frames(tmp_path, old_calculations, pw_code, python_code, pseudo_family):  # noqa: F811
    group = orm.Group('test-old-silicon').store()
    group.add_nodes(old_calculations)
    command = ['harvest', '--group', group.label, '-G', 'test-old-silicon-harvested']
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    (harvested,) = orm.load_group('test-old-silicon-harvested').nodes
    old = harvested.configurations
    assert old.is_labelled.all()
    assert len(old) == N_OLD

    inputs = {
        'structure': old_calculations[0].inputs.pw.structure.pk,
        'dataset': harvested.pk,
        'label': pw_code.full_label,
        'family': pseudo_family,
        'distance': harvested.level_of_theory['k_points']['distance'],
        'train': python_code.full_label,
    }
    (tmp_path / 'campaign.yaml').write_text(dedent(CAMPAIGN.format(**inputs)))
    node = run_get_node(build(load_campaign(tmp_path / 'campaign.yaml')))[1]
    assert node.is_finished_ok, node.exit_message

    # The harvested rows are in the dataset as they were, and only the other frames were given to pw.x, each once.
    dataset = node.outputs.dataset.configurations
    rows = [dataset.frame_id.tolist().index(frame) for frame in old.frame_id.tolist()]
    np.testing.assert_array_equal(dataset.energy[rows], old.energy)
    assert set(dataset.origin[rows].tolist()) == {'harvest'}
    chunks = [item.outputs.result for item in node.called_descendants if item.process_label == 'collect_pw_labels']
    computed = [frame for chunk in chunks for frame in chunk.configurations.frame_id.tolist()]
    assert len(set(computed)) == len(computed)
    assert set(computed) == set(dataset.frame_id.tolist()) - set(old.frame_id.tolist())
    parent = node.inputs.seeds.structures.structure_000.get_ase()
    same = [
        index
        for index, atoms in enumerate(dataset.to_atoms())
        if len(atoms) == len(parent) and np.allclose(atoms.positions, parent.positions, atol=1e-5)
    ]
    assert same == rows[:1], 'the unchanged parent is an old calculation, too'
    decision = node.outputs.decision
    assert decision['n_initial'] == N_OLD
    assert decision['n_labels'] == len(dataset) - N_OLD - dataset.has_role('isolated_atom').sum()
    assert set(dataset.role[rows].tolist()) == {'train', 'validation'}, 'in the random stream or left out'
    assert dataset.is_labelled[rows].all()

    # From the last model the way leads to every old calculation, and nothing is missing on it.
    assert trace(node).gaps == []
    assert trace(node.outputs.model).gaps == []
    query = orm.QueryBuilder().append(orm.Node, filters={'id': node.outputs.model.pk}, tag='model')
    query.append(orm.CalcJobNode, with_descendants='model', project='id')
    ancestors = set(query.all(flat=True))
    assert {job.pk for work in old_calculations for job in _jobs(work)} <= ancestors
