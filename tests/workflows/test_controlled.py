"""What a campaign with a control arm asks for, and refuses before anything runs."""

from __future__ import annotations

import pytest
from aiida import orm
from ase.build import bulk

from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.controlled import ControlledCampaignWorkChain


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
