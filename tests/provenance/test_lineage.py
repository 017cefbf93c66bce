"""Tests of :mod:`aiida_mlipal.provenance.lineage`, on real graphs."""

from __future__ import annotations

import time

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import WorkChain, calcfunction, run_get_node, workfunction
from aiida.manage import get_manager
from aiida.orm.entities import EntityTypes

from aiida_mlipal.provenance.lineage import trace


@calcfunction
def double(value: orm.Int) -> orm.Int:
    return orm.Int(2 * value.value)


@calcfunction
def scale(value: orm.Int, settings: orm.Dict) -> orm.Int:
    return orm.Int(value.value * settings['factor'])


@workfunction
def double_twice(value: orm.Int) -> orm.Int:
    return double(double(value))


class Campaign(WorkChain):
    """Two steps; with `careless` the settings of the second are made in the step, where no calculation records it."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('start', valid_type=orm.Int)
        spec.input('settings', valid_type=orm.Dict)
        spec.input('careless', valid_type=orm.Bool, default=lambda: orm.Bool(False))
        spec.outline(cls.first, cls.second)
        spec.output('dataset', valid_type=orm.Int)
        spec.output('model', valid_type=orm.Int)

    def first(self):
        self.ctx.dataset = double_twice(self.inputs.start)

    def second(self):
        settings = orm.Dict({'factor': 5}) if self.inputs.careless.value else self.inputs.settings
        self.out('dataset', self.ctx.dataset)
        self.out('model', scale(self.ctx.dataset, settings))


@pytest.fixture(scope='module')
def campaign():
    """Return a finished campaign whose three inputs the user supplied."""
    _, node = run_get_node(Campaign, start=orm.Int(3), settings=orm.Dict({'factor': 7}))
    assert node.is_finished_ok
    return node


def test_no_gaps(campaign):
    lineage = trace(campaign)
    assert lineage.gaps == []
    assert sorted(item.link_label for item in lineage.supplied) == ['careless', 'settings', 'start']
    assert {item.consumer for item in lineage.supplied} == {f'Campaign<{campaign.pk}>'}
    assert (lineage.n_nodes, lineage.n_processes) == (6, 4)  # inputs, two doubles, the model; campaign, 2 double, scale
    assert lineage.to_text().splitlines()[-1] == 'lineage: 0 gaps'


def test_of_a_data_node(campaign):
    lineage = trace(campaign.outputs.model)
    assert lineage.gaps == []
    assert sorted(item.node for item in lineage.supplied) == sorted(
        [campaign.inputs.start.pk, campaign.inputs.settings.pk]
    )
    assert lineage.n_processes == 3


def test_of_a_node_nobody_touched():
    lineage = trace(orm.Int(1).store())
    assert (lineage.n_nodes, lineage.n_processes, len(lineage.supplied), lineage.gaps) == (1, 0, 1, [])


def test_inputs_of_a_calcfunction_the_user_calls_are_supplied():
    result = double(orm.Int(4))
    lineage = trace(result)
    assert lineage.gaps == []
    assert [item.kind for item in lineage.supplied] == ['Int']


def test_a_node_made_in_a_step_is_a_gap():
    _, node = run_get_node(Campaign, start=orm.Int(3), settings=orm.Dict({'factor': 7}), careless=orm.Bool(True))
    (gap,) = trace(node).gaps
    scaling = node.called_descendants[-1]
    assert gap.link_label == 'settings'
    assert gap.consumer == scaling.pk
    assert gap.node == scaling.inputs.settings.pk
    assert f'made in a step of Campaign<{node.pk}>' in gap.sentence
    assert trace(node).to_text().splitlines()[-1] == 'lineage: 1 gap'


def test_a_user_does_not_supply_what_a_campaign_made_before(campaign, cut):
    """A dataset that lost its creator stays a gap when a later campaign starts from it."""
    dataset = campaign.outputs.dataset
    cut(dataset.creator, dataset)
    _, later = run_get_node(Campaign, start=dataset, settings=orm.Dict({'factor': 7}))
    (gap,) = trace(later).gaps
    assert gap.node == dataset.pk


@pytest.mark.parametrize('output', ['dataset', 'model'])
def test_cut_creation(campaign, cut, output):
    node = campaign.base.links.get_outgoing(link_type=LinkType.RETURN).get_node_by_label(output)
    cut(node.creator, node)
    (gap,) = trace(campaign).gaps
    assert gap.node == node.pk
    assert 'no calculation created it' in gap.sentence


def test_cut_creation_of_what_no_workflow_returned(campaign, cut):
    first, second = (item for item in campaign.called_descendants if item.process_label == 'double')
    middle = first.outputs.result
    cut(first, middle)
    (gap,) = trace(campaign).gaps
    assert (gap.node, gap.consumer, gap.link_label) == (middle.pk, second.pk, 'value')


def test_cut_input_of_a_calculation(campaign, cut):
    scaling = campaign.called_descendants[-1]
    cut(scaling.inputs.value, scaling)
    (gap,) = trace(campaign).gaps
    assert (gap.node, gap.consumer, gap.link_label) == (0, scaling.pk, 'value')
    assert 'which it requires' in gap.sentence


def test_cut_input_of_the_campaign(campaign, cut):
    start = campaign.inputs.start
    cut(start, campaign)
    gaps = trace(campaign).gaps
    assert {(gap.node, gap.link_label) for gap in gaps} >= {(0, 'start'), (start.pk, 'value')}


def test_text_lists_the_gaps(campaign, cut):
    cut(campaign.outputs.model.creator, campaign.outputs.model)
    cut(campaign.outputs.dataset.creator, campaign.outputs.dataset)
    lines = trace(campaign).to_text().splitlines()
    assert lines[-1] == 'lineage: 2 gaps'
    assert sum(line.startswith('  gap: ') for line in lines) == 2


# -- workflows of other plugins ----------------------------------------------------------------------------------------


def stored_process(cls, process_type, label, inputs, caller=None):
    """Return a finished process node with inputs, as the engine would have left it."""
    node = cls()
    node.process_type = process_type
    node.base.attributes.set('process_label', label)
    calculation = issubclass(cls, orm.CalculationNode)
    for name, data in inputs.items():
        data.store()
        node.base.links.add_incoming(data, LinkType.INPUT_CALC if calculation else LinkType.INPUT_WORK, name)
    if caller is not None:
        node.base.links.add_incoming(caller, LinkType.CALL_CALC if calculation else LinkType.CALL_WORK, 'CALL')
    return node.store()


def foreign_label(caller_type='aiida.workflows:other.base', restated=None, base_inputs=None, top_inputs=None):
    """Return the energy that a calculation made, called by a workflow of another plugin, called by a lane of ours."""
    supplied = orm.Dict({'ecutwfc': 30})
    top = {'parameters': supplied} if top_inputs is None else top_inputs
    lane = stored_process(orm.WorkChainNode, 'aiida.workflows:mlipal.label_lane', 'LabelLaneWorkChain', top)
    base_inputs = {'pw__parameters': supplied} if base_inputs is None else base_inputs
    base = stored_process(orm.WorkChainNode, caller_type, 'OtherBaseWorkChain', base_inputs, lane)
    restated = orm.Dict({'ecutwfc': 30, 'restarted': True}) if restated is None else restated
    calc = stored_process(
        orm.CalcJobNode, 'aiida.calculations:other.pw', 'OtherCalculation', {'parameters': restated}, base
    )
    energy = orm.Float(1.0)
    energy.base.links.add_incoming(calc, LinkType.CREATE, 'energy')
    return energy.store(), base


def test_settings_restated_by_a_workflow_of_another_plugin():
    energy, base = foreign_label()
    lineage = trace(energy)
    assert lineage.gaps == []
    assert lineage.restated == {'OtherBaseWorkChain': 1}
    assert [item.node for item in lineage.supplied] == [base.inputs.pw.parameters.pk]
    assert '1 settings by OtherBaseWorkChain' in lineage.to_text()


def test_the_walk_goes_on_through_the_inputs_of_that_workflow():
    """Settings that our lane made in a step for the other plugin's workflow are a gap."""
    energy, base = foreign_label(top_inputs={}, base_inputs={'pw__parameters': orm.Dict({'ecutwfc': 30})})
    gaps = [gap for gap in trace(energy).gaps if gap.node]
    assert [(gap.node, gap.consumer, gap.link_label) for gap in gaps] == [
        (base.inputs.pw.parameters.pk, base.pk, 'pw__parameters')
    ]


def test_other_plugins_may_restate_settings_only():
    energy, _ = foreign_label(restated=orm.KpointsData())
    assert [gap.link_label for gap in trace(energy).gaps] == ['parameters']


@pytest.mark.parametrize('workflow', ['aiida.workflows:mlipal.train', 'mymodule.MyWorkChain'])
def test_our_own_and_unregistered_workflows_may_not(workflow):
    energy, _ = foreign_label(caller_type=workflow)
    assert [gap.link_label for gap in trace(energy).gaps if gap.node] == ['parameters']


# -- size ------------------------------------------------------------------------------------------------------------


def test_thousands_of_nodes_in_seconds():
    """Fifty generations of one calculation with two hundred inputs and outputs, written straight into the tables."""
    generations, width = 50, 200
    user = orm.User.collection.get_default().pk
    storage = get_manager().get_profile_storage()

    def insert(node_type, number):
        rows = [{'node_type': node_type, 'user_id': user} for _ in range(number)]
        return storage.bulk_insert(EntityTypes.NODE, rows, allow_defaults=True)

    with storage.transaction():
        data = insert(orm.Int.class_node_type, (generations + 1) * width)
        calculations = insert(orm.CalcFunctionNode.class_node_type, generations)
        links = []
        for generation, calculation in enumerate(calculations):
            for index in range(width):
                source = data[generation * width + index]
                target = data[(generation + 1) * width + index]
                label = f'x{index}'
                links.append({'input_id': source, 'output_id': calculation, 'label': label, 'type': 'input_calc'})
                links.append({'input_id': calculation, 'output_id': target, 'label': label, 'type': 'create'})
        storage.bulk_insert(EntityTypes.LINK, links, allow_defaults=True)
    started = time.perf_counter()
    lineage = trace(orm.load_node(data[-1]))
    elapsed = time.perf_counter() - started
    assert (lineage.n_nodes, lineage.n_processes) == (generations * width + 1, generations)
    assert lineage.gaps == []
    assert len(lineage.supplied) == width
    assert elapsed < 20
