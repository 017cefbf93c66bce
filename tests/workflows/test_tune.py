"""A search for training settings: real trainings of tiny models."""

from __future__ import annotations

import re

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import WorkflowFactory
from scipy.stats import spearmanr

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows import checks
from aiida_mlipal.workflows.train import TrainWorkChain
from aiida_mlipal.workflows.tune import TuneWorkChain
from tests.documented import blocks
from tests.runners.training import TINY, copper

EMT = {'code': 'ase', 'calculator': 'emt'}


@pytest.fixture
def build(python_code):
    """Return a function that makes a search for a tiny model."""

    def make(search=None, **overrides):
        return TuneWorkChain.get_builder_from_protocol(
            python_code,
            ConfigurationsData(copper(), level_of_theory=EMT),
            protocol='fast',
            search=search,
            overrides={**TINY, 'max_num_epochs': 2, **overrides},
            options={'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 2}},
        )

    return make


def _problem(builder) -> str:
    ports = TuneWorkChain.spec().inputs
    problem = ports.validate(ports.pre_process(builder._inputs(prune=True)))
    return '' if problem is None else problem.message


def _report(node) -> str:
    return ' '.join(log.message for log in orm.Log.collection.get_logs_for(node))


def test_inputs(build):
    builder = build({'batch_size': [2], 'seed': 5})
    assert _problem(builder) == ''
    assert (builder.search['seed'], builder.settings['seeds']) == (5, [1, 2, 3, 4])
    assert WorkflowFactory('mlipal.tune') is TuneWorkChain
    builder.search = orm.Dict({'batchsize': [2]})
    assert re.search('`search`: TuningSettings: unknown key `batchsize`. Did you mean `batch_size`', _problem(builder))
    builder.search = orm.Dict({})
    builder.max_concurrent = orm.Int(0)
    assert '`max_concurrent` is 0, expected 1 or more' in _problem(builder)
    builder.max_concurrent = orm.Int(1)
    builder.settings = orm.Dict({**TINY, 'seeds': [1], 'r_max': 15.0})
    assert 'more than 1000 neighbours' in _problem(builder)
    with pytest.raises(ValueError, match='set 3 or more'):
        build({'max_members': 1})


def test_only_the_search_trains_with_the_settings_as_given(build):
    """The defaults of a training on its own stay what they are."""
    ports = TrainWorkChain.spec().inputs
    assert ports['on_unhandled_failure'].default().value == 'restart_once'
    assert not ports['handler_overrides'].has_default() or not ports['handler_overrides'].default()


def _documented():
    return [block for block in blocks('python') if 'howto/tune_hyperparameters.md' in block.source]


def test_the_documented_builder(python_code, monkeypatch):
    """The page is run but for the submission."""
    submitted = []
    monkeypatch.setattr('aiida.engine.submit', submitted.append)
    dataset = ConfigurationsData(copper(), level_of_theory=EMT).store()
    first = _documented()[0]
    exec(compile(first.text.replace('1234', str(dataset.pk)), first.source, 'exec'), {})
    (builder,) = submitted
    assert builder.train.dataset.uuid == dataset.uuid
    assert builder.search['max_members'] == 8
    assert _problem(builder) == ''


@pytest.mark.codes
@pytest.mark.long
def test_a_grid_with_a_point_that_diverges_and_a_committee(build, capsys):
    builder = build({'lr': [0.01, 1e30], 'batch_size': [3], 'n_seeds': 2, 'seed': 4, 'max_members': 3})
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, (node.exit_message, _report(node))
    table = outputs['table'].get_dict()
    good, bad = table['grid']
    assert (good['lr'], good['batch_size'], good['status'], good['reason']) == (0.01, 3, 'ok', '')
    assert (good['seeds'], good['n_trained'], good['score']) == ([4, 5], 2, pytest.approx(1.0))
    trained = {link.link_label: link.node for link in node.base.links.get_outgoing().all()}
    training = trained['point_000']
    members = training.outputs.results.attempt_0['members'].values()
    errors = [member['errors']['valid']['force_rmse'] for member in members]
    assert good['force_rmse'] == pytest.approx(np.mean(errors))
    assert good['force_rmse_spread'] == pytest.approx(abs(errors[0] - errors[1]) / 2**0.5)
    assert good['core_s'] == pytest.approx(2 * training.outputs.results.attempt_0['wall_s'])
    assert good['gpu_s'] == 0

    # The rate is not lowered on the way, and the failure is a row.
    assert (bad['lr'], bad['status'], bad['n_trained'], bad['force_rmse'], bad['score']) == (
        1e30,
        'failed',
        0,
        None,
        None,
    )
    assert 'the validation loss is nan' in bad['reason']
    assert bad['core_s'] > 0
    assert len([job for job in trained['point_001'].called if isinstance(job, orm.CalcJobNode)]) == 1

    # The correlations are those of the members' own forces.
    evaluations = [trained[f'member_{seed:010d}'].outputs.evaluation.evaluation for seed in (4, 5, 6)]
    forces = np.array([evaluation.forces for evaluation in evaluations])
    valid = trained['committee'].outputs.results.attempt_0['valid_frame_ids']
    assert sorted(evaluations[0].frame_id) == sorted(valid)
    spreads = [np.sqrt(forces[rows].var(axis=0, ddof=1).mean(axis=-1)) for rows in ([0, 1], [0, 2], [1, 2], [0, 1, 2])]
    two, three = table['committee']
    assert two['spearman'] == pytest.approx(np.mean([spearmanr(one, spreads[-1]).statistic for one in spreads[:3]]))
    assert three['spearman'] == pytest.approx(1.0)
    size = 2 if two['spearman'] > 0.95 else 3
    assert table['recommended'] == {'lr': 0.01, 'batch_size': 3, 'n_members': size}

    settings, training_input = outputs['settings'].get_dict(), outputs['training'].get_dict()
    assert settings == {**builder.settings.get_dict(), 'lr': 0.01, 'batch_size': 3, 'seeds': [4, 5, 6][:size]}
    assert training_input.pop('n_members') == size
    checks.check_settings('train', training_input)  # as a campaign does
    again = TrainWorkChain.get_builder()
    again.dataset, again.settings, again.mace.code = builder.train.dataset, outputs['settings'], builder.train.mace.code
    ports = TrainWorkChain.spec().inputs
    assert ports.validate(ports.pre_process(again._inputs(prune=True))) is None
    for name in ('table', 'settings', 'training'):
        assert trace(outputs[name]).gaps == []
    assert trace(node).gaps == []
    documented, use = _documented()[1:]
    exec(compile(documented.text, documented.source, 'exec'), {'node': node})
    assert f"{{'lr': 0.01, 'batch_size': 3, 'n_members': {size}}}" in capsys.readouterr().out
    variables = {'node': node, 'WorkflowFactory': WorkflowFactory}
    exec(compile(use.text, use.source, 'exec'), variables)
    assert variables['training'].settings.uuid == outputs['settings'].uuid
    assert variables['campaign'].training.uuid == outputs['training'].uuid
    text = _report(node)
    assert 'lr 0.01, batch_size 3: force RMSE' in text
    assert '3 members: rank correlation 1.000 with all' in text
    assert f'recommended: lr 0.01, batch_size 3, n_members {size}' in text


def test_every_point_fails_and_so_many_run_at_a_time(build, aiida_localhost, tmp_path):
    """Jobs that leave at once what a job leaves that has failed."""
    path = tmp_path / 'python.sh'
    result = '{"status": "error", "error": "it failed", "kind": "exception", "traceback": ""}'
    path.write_text(f"#!/bin/sh\necho '{result}' > result.json\n")
    path.chmod(0o755)
    builder = build({'lr': [0.01, 0.02, 0.03], 'batch_size': [3], 'n_seeds': 1})
    builder.train.mace.code = orm.InstalledCode(
        label='failing', computer=aiida_localhost, filepath_executable=str(path), with_mpi=False
    ).store()
    outputs, node = run_get_node(builder)
    assert node.exit_status == 410
    assert 'None of the 3 points of the grid could be trained, see `table`; try lower' in node.exit_message
    assert list(outputs) == ['table']
    assert outputs['table']['recommended'] == {}
    assert trace(outputs['table']).gaps == []
    rows = outputs['table']['grid']
    assert [row['lr'] for row in rows] == [0.01, 0.02, 0.03]
    assert all(row['status'] == 'failed' and 'it failed' in row['reason'] for row in rows)
    first, second, third = (link.node for link in node.base.links.get_outgoing(link_label_filter='point_%').all())
    assert second.ctime < first.mtime
    assert third.ctime > max(first.mtime, second.mtime)


@pytest.mark.codes
def test_one_model_has_no_number_of_members(build):
    """The grid is trained with plain members; what is recommended keeps its uncertainty."""
    builder = build({'lr': [0.01], 'batch_size': [3], 'n_seeds': 1}, n_members=1, uncertainty='llpr')
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, (node.exit_message, _report(node))
    assert 'committee' not in outputs['table'].get_dict()
    assert outputs['table']['grid'][0]['n_trained'] == 1
    assert outputs['table']['grid'][0]['force_rmse_spread'] is None
    assert (outputs['settings']['uncertainty'], outputs['settings']['seeds']) == ('llpr', [1])
    assert outputs['training']['n_members'] == 1
