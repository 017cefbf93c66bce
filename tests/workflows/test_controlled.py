"""What a campaign with a control arm asks for, and refuses before anything runs."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows import controlled
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.controlled import ControlledCampaignWorkChain
from tests.report.campaign_graph import Graph, build_campaign, evaluate, finished_campaign


@pytest.fixture
def build(python_code):
    """Return a function that builds a campaign with EMT and its control arm."""

    def factory(control='random', **sections):
        campaign = ActiveLearningWorkChain.get_builder_from_protocol(
            orm.StructureData(ase=bulk('Cu', cubic=True)),
            {'label': python_code, 'train': python_code}, protocol='fast', engine='ase',
            overrides={'label': {'parameters': {'calculator': 'emt'}}, **sections},
        )  # fmt: skip
        return campaign, ControlledCampaignWorkChain.get_builder_from_campaign(campaign, control)

    return factory


def _problem(builder) -> str:
    problem = ControlledCampaignWorkChain.spec().inputs.validate(builder._inputs(prune=True))
    return '' if problem is None else problem.message


def test_all_inputs_are_those_of_the_campaign(build):
    """Nothing is lost on the way, down to the options of the jobs, and nothing but the control is new."""
    campaign, controlled = build()
    assert _problem(controlled) == ''
    given, passed = campaign._inputs(prune=True), controlled._inputs(prune=True)
    assert passed.pop('control').value == 'random'
    given.pop('metadata', None)
    passed.pop('metadata', None)
    assert passed == given
    assert passed['train']['mace']['metadata']['options']['max_wallclock_seconds'] == 86400


@pytest.mark.parametrize(
    ('control', 'sections', 'message'),
    [
        ('max_det', {}, 'both select by `max_det`'),
        ('random', {'selection': {'method': 'random'}}, 'both select by `random`'),
        ('randm', {}, 'Did you mean `random`?'),
        ('top_uncertainty', {}, 'unknown method of a control arm'),
        ('random', {'selection': {'n_labels': 1}}, 'nothing is left to train on'),
    ],
)
def test_refused(build, control, sections, message):
    assert message in _problem(build(control, **sections)[1])


def test_the_control_comes_second_and_both_are_judged_on_the_same_frames(build, monkeypatch):
    """All steps, with campaigns that have run already; the integration test runs real ones."""
    graph, submitted = Graph(), {}

    def submit_once(parent, link_label, process, inputs):
        submitted[link_label] = inputs
        if process is ActiveLearningWorkChain:
            return build_campaign()
        model, frames = inputs['model'], inputs['configurations']
        said = EvaluationData(evaluate(frames.configurations, int(link_label[-2:])), model.digest)
        job = graph.process(orm.CalcJobNode, 'MaceEvaluateCalculation', {'model': model}, {'evaluation': said})
        job.seal()
        return job

    monkeypatch.setattr(controlled, 'submit_once', submit_once)
    results, node = run_get_node(build()[1])
    assert node.is_finished_ok, node.exit_message
    assert list(submitted)[:2] == ['campaign', 'control']
    given, other = submitted['campaign'], submitted['control']
    assert other['selection'].get_dict() == {**given['selection'].get_dict(), 'method': 'random'}
    assert {name: value for name, value in given.items() if name != 'selection'} == {
        name: value for name, value in other.items() if name != 'selection'
    }
    evaluated = {inputs['configurations'].uuid for name, inputs in submitted.items() if name.startswith('evaluation')}
    assert len(evaluated) == 1
    assert sorted(results) == ['comparison', 'dataset', 'decision', 'model', 'validation']
    arms = results['comparison']['arms']
    assert [len(points) for points in arms.values()] == [3, 3]
    assert arms['campaign'] == arms['control']  # the same graph twice
    assert results['comparison']['saving']['ratio'] == pytest.approx(1.0)
    assert trace(results['comparison']).gaps == []


@pytest.mark.parametrize(('failing', 'status'), [('campaign', 410), ('control', 420)])
def test_an_arm_that_fails(build, monkeypatch, failing, status):
    """The pair ends with what failed; after the campaign itself has failed nothing is spent on a control arm."""
    submitted = []

    def submit_once(parent, link_label, process, inputs):
        submitted.append(link_label)
        if link_label != failing:
            return finished_campaign()
        return Graph().process(orm.WorkChainNode, 'ActiveLearningWorkChain', {}, exit_status=430)

    monkeypatch.setattr(controlled, 'submit_once', submit_once)
    _, node = run_get_node(build()[1])
    assert node.exit_status == status
    assert 'ActiveLearningWorkChain failed' in node.exit_message
    assert submitted == ['campaign', 'control'][: 1 + (failing == 'control')]
