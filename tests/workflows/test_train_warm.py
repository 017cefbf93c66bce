"""Trainings that go on from an earlier committee; when they cannot, they begin anew."""

from __future__ import annotations

import io

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows.train import TrainWorkChain
from tests.runners.training import TINY, copper
from tests.workflows.test_train_survives import EMT, FAILING, _jobs, _report, _result, script  # noqa: F401

METADATA = {
    'elements': ['Cu'], 'r_max': 4.5, 'dtype': 'float32', 'seeds': [1], 'level_of_theory_hash': '', 'errors': {},
    'software': {}, 'settings_hash': '',
}  # fmt: skip


def _builder(code, **settings):
    builder = TrainWorkChain.get_builder()
    builder.dataset = ConfigurationsData(copper(), level_of_theory=EMT)
    builder.settings = orm.Dict({**TINY, 'seeds': [1], **settings})
    builder.mace.code = code
    return builder


def _model(**metadata):
    return MlipModelData([io.BytesIO(b'not a model')], metadata={**METADATA, **metadata})


def _warm(builder, model, copies=None, **settings):
    builder.warm_start.model = model
    builder.warm_start.settings = orm.Dict({**builder.settings.get_dict(), 'seeds': model.seeds, **settings})
    if copies is not None:
        builder.warm_start.copies = orm.ArrayData(copies)
    return builder


@pytest.mark.codes
@pytest.mark.timeout(900)
@pytest.mark.long
def test_members_go_on_and_those_that_cannot_begin_anew(python_code):
    outputs, node = run_get_node(_builder(python_code, max_num_epochs=6))
    assert node.is_finished_ok, (node.exit_message, _report(node))
    earlier = outputs['model']

    frames = copper()
    copies = {'frame_id': frames.frame_id[:8], 'copies': np.array([0, 2, 2, 2, 1, 1, 1, 1])}
    builder = _warm(_builder(python_code, seeds=[5]), earlier, copies, max_num_epochs=1, lr=1e-4)
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, (node.exit_message, _report(node))
    assert outputs['model'].seeds == [1], 'the member is the same, not one of the seed 5'
    (job,) = _jobs(node)
    assert job.inputs.start.uuid == earlier.uuid
    errors = [model.base.attributes.get('errors')['member_00']['valid'] for model in (earlier, outputs['model'])]
    assert errors[1]['force_rmse'] == pytest.approx(errors[0]['force_rmse'], rel=0.1)
    assert trace(outputs['model']).gaps == []

    builder = _warm(_builder(python_code, seeds=[5], num_channels=6), earlier, max_num_epochs=1)
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, (node.exit_message, _report(node))
    first, second = _jobs(node)
    assert first.outputs.results['members']['member_00']['kind'] == 'start_refused'
    assert 'start' not in second.inputs
    assert outputs['model'].seeds == [5]
    assert 'no weights of the right shape' in _report(node)
    assert 'training from scratch' in _report(node)
    assert trace(outputs['model']).gaps == []


@pytest.mark.parametrize(
    ('command', 'statuses', 'exit_status'),
    [
        (_result('non_finite'), [312] * 8, 421),
        (_result('exception'), [310] * 4, 410),
        (_result('settings_refused'), [314], 410),
        (_result('out_of_memory'), [311] * 2, 420),
    ],
)
def test_a_warm_start_that_fails_is_given_up_for_one_from_scratch(script, command, statuses, exit_status):  # noqa: F811
    """After all that the handlers try, and only where it may help."""
    builder = _warm(_builder(script(FAILING.format(command=command)), seeds=[1]), _model())
    _, node = run_get_node(builder)
    jobs = _jobs(node)
    assert [job.exit_status for job in jobs] == statuses
    assert node.exit_status == exit_status
    half = len(jobs) // 2 if len(jobs) > 2 else len(jobs)
    assert ['start' in job.inputs for job in jobs] == [True] * half + [False] * (len(jobs) - half)
    assert ('training from scratch' in _report(node)) == (len(jobs) > 2)
    if len(jobs) > 2:
        assert 'previous' not in jobs[half].inputs
        assert jobs[half].inputs.settings.uuid == builder.settings.uuid


@pytest.mark.parametrize(
    ('settings', 'metadata', 'reason'),
    [
        ({'e0s': 'least_squares'}, {}, 'the energies of the atoms are fitted to the dataset'),
        ({}, {'elements': ['Ag', 'Cu']}, 'the model knows Ag-Cu, the dataset holds Cu'),
    ],
)
def test_what_shows_beforehand_costs_no_job(script, settings, metadata, reason):  # noqa: F811
    builder = _warm(
        _builder(script(FAILING.format(command=_result('settings_refused'))), **settings), _model(**metadata)
    )
    _, node = run_get_node(builder)
    assert 'start' not in _jobs(node)[0].inputs
    assert f'no warm start, since {reason}' in _report(node)


def _problem(builder) -> str:
    ports = TrainWorkChain.spec().inputs
    problem = ports.validate(ports.pre_process(builder._inputs(prune=True)))
    return '' if problem is None else problem.message


def test_what_is_refused(python_code):
    builder = _warm(_builder(python_code), _model())
    assert _problem(builder) == ''
    builder.warm_start.settings = orm.Dict({**TINY, 'seeds': [1, 2]})
    assert 'members of the seeds [1], none of [2]' in _problem(builder)
    builder.warm_start.settings = orm.Dict({**TINY, 'seeds': [1]})
    for arrays, message in (
        ({'frame_id': np.array(['a'])}, 'give `frame_id` and `copies`'),
        ({'frame_id': np.array(['a']), 'copies': np.array([-1])}, 'none below 0'),
        ({'frame_id': np.array(['a']), 'copies': np.array([0.5])}, 'must hold integers'),
    ):
        builder.warm_start.copies = orm.ArrayData(arrays)
        assert message in _problem(builder)
