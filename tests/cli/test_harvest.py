"""``aiida-mlipal harvest``: the table, the group, and a campaign that starts from the dataset."""

from __future__ import annotations

from copy import deepcopy

import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import WorkflowFactory
from click.testing import CliRunner

from aiida_mlipal.cli import main
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows.campaign_inputs import foreign_labels
from tests.workflows.conftest import pseudo_family, pw_code, quick_pw_label, silicon  # noqa: F401 (fixtures)

pytestmark = pytest.mark.codes


def _invoke(*arguments: object, ok: bool = True) -> str:
    result = CliRunner().invoke(main, ['harvest', *map(str, arguments)])
    assert (result.exit_code == 0) == ok, result.output
    return result.output


def _run(label, atoms, ecutwfc):
    """Run one PwBaseWorkChain as a user would, with a k-point distance."""
    inputs = label['engine_inputs']
    builder = WorkflowFactory('quantumespresso.pw.base').get_builder()
    builder.kpoints_distance = inputs['kpoints_distance']
    builder.pw.code = inputs['code']
    builder.pw.structure = orm.StructureData(ase=atoms)
    builder.pw.pseudos = {'Si': inputs['pseudos']['Si']}
    parameters = deepcopy(inputs['parameters'].get_dict())
    parameters['SYSTEM']['ecutwfc'] = ecutwfc
    parameters['ELECTRONS']['mixing_beta'] = 0.5
    builder.pw.parameters = orm.Dict(parameters)
    builder.pw.metadata.options = inputs['options'].get_dict()
    _, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return node


def test_two_levels_of_real_calculations(quick_pw_label):  # noqa: F811 (the fixture)
    """Real pw.x: dry run, harvest, again; and a campaign of the same level takes the dataset."""
    from tests.workflows.harvest.conftest import silicon as distorted

    label = quick_pw_label
    label['engine_inputs']['kpoints_offset'] = orm.List([0.0, 0.0, 0.0])  # what `kpoints_distance` alone means
    nodes = [_run(label, distorted(1), 12.0), _run(label, distorted(2), 12.0), _run(label, distorted(1), 14.0)]
    group = orm.Group('test-harvest').store()
    group.add_nodes(nodes)
    before = orm.QueryBuilder().append(orm.Node).count()
    output = _invoke('--group', 'test-harvest', '--dry-run')
    assert orm.QueryBuilder().append(orm.Node).count() == before
    assert 'level 2: as level 1, but system.ecutwfc: 12.0 -> 14.0' in output
    assert 'dry run: nothing was stored' in output
    output = _invoke('--group', 'test-harvest', '-G', 'test-harvested')
    assert [line.split()[:6] for line in output.splitlines()[2:4]] == [
        ['1', '2', '2', '0', '0', '2'], ['2', '1', '1', '0', '0', '1'],
    ]  # fmt: skip
    datasets = sorted(orm.load_group('test-harvested').nodes, key=lambda node: node.pk)
    assert [node.n_frames for node in datasets] == [2, 1]
    assert all(trace(node).gaps == [] for node in datasets)
    before = orm.QueryBuilder().append(orm.Node).count()
    _invoke('--group', 'test-harvest', '-G', 'test-harvested')
    assert orm.QueryBuilder().append(orm.Node).count() == before

    engine_level = datasets[0].level_of_theory['k_points']
    label['engine_inputs']['kpoints_distance'] = orm.Float(engine_level['distance'])
    assert foreign_labels({'dataset': datasets[0], 'label': label}) == []
    assert 'system.ecutwfc: 14' in foreign_labels({'dataset': datasets[1], 'label': label})[0]


def test_nothing_chosen_and_nothing_found(aiida_profile):
    assert '`--since 2000-01-01` takes all there are' in _invoke(ok=False)
    assert 'there is no node `999999`' in _invoke('--level-of-theory-of', 999999, ok=False)
    assert 'nothing to harvest' in _invoke('--since', '2100-01-01')
