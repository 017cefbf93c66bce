"""The loop on real codes through a real daemon: what comes out, where it comes from, and that it can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import submit

from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.report import write_report
from tests.documented import blocks, campaign_commands
from tests.integration.conftest import kill_daemon, pw_calculations, restart_daemon, wait

pytestmark = [pytest.mark.codes, pytest.mark.timeout(2400)]

_STATE: dict[str, orm.WorkChainNode] = {}


@pytest.fixture
def campaign(started_daemon_client, campaign_builder) -> orm.WorkChainNode:
    """Return a finished campaign of two iterations; it runs once."""
    if 'first' not in _STATE:
        node = submit(campaign_builder())
        wait(node, lambda: node.is_terminated, 1100)
        _STATE['first'] = node
    return _STATE['first']


def _hashes(campaign: orm.WorkChainNode) -> dict[str, str]:
    """Return the content hashes of dataset, decisions and selections."""
    nodes = {'dataset': campaign.outputs.dataset, 'decision': campaign.outputs.decision}
    for name in ('decisions', 'selections', 'calibrations', 'coverage'):
        namespace = getattr(campaign.outputs, name)
        nodes.update({f'{name}.{key}': namespace[key] for key in namespace})
    return {name: node.base.caching.compute_hash() for name, node in nodes.items()}


def test_outputs(campaign):
    """Two iterations end with a model, a dataset, decisions and a validation."""
    assert campaign.is_finished_ok, f'{campaign.exit_status}: {campaign.exit_message}'
    outputs = campaign.outputs
    # Two calibration frames decide whether the trust window leaves any candidate in the last iteration.
    assert outputs.decision['outcome'] in ('budget_iterations', 'no_candidates'), outputs.decision['reasons']
    assert sorted(outputs.models) == ['iteration_00', 'iteration_01', 'iteration_02']
    assert sorted(outputs.decisions) == sorted(outputs.selections) == ['iteration_00', 'iteration_01']
    assert outputs.model.n_members == 3
    assert len(set(outputs.model.seeds)) == 3

    dataset = outputs.dataset.configurations
    stream = dataset.has_role('calibration', 'test')
    assert stream.sum() >= 6
    assert (dataset.is_labelled | (dataset.reason != '')).all(), 'every rejected label has a reason'
    first = outputs.selections.iteration_00
    assert len(first.decision) == first.base.attributes.get('n_candidates')
    assert first.decision.n_selected > 0
    assert first.decision.thresholds == {}, 'there is no trust window before there are calibration frames'
    assert outputs.selections.iteration_01.decision.thresholds['lower'] > 0
    assert outputs.calibrations.iteration_01['n_frames'] >= 2

    assert not outputs.coverage.iteration_00['tested']
    coverage = outputs.coverage.iteration_01
    assert coverage['n_frames'] + coverage['n_rejected'] >= 2
    assert coverage.creator.inputs.calibration.uuid == outputs.calibrations.iteration_01.uuid
    # So few calibration frames bound the highest levels by nothing.
    assert [entry['n_frames'] > 0 for entry in coverage['levels']] == [True, False, False, False]

    validation = outputs.validation.get_dict()
    assert [entry['model'] for entry in validation['learning_curve']] == sorted(outputs.models)
    assert all(entry['n_frames'] == stream.sum() for entry in validation['learning_curve'])
    eos = validation['eos'][0]
    assert 3.75 < eos['teacher']['a0'] < 3.92  # the primitive cell: 5.43 Å / sqrt(2), coarse settings
    assert np.isfinite(eos['deviation_percent'])


def test_the_random_stream_is_never_trained_on(campaign):
    """No training frame of any model is a calibration or test frame, and no frame has two roles."""
    dataset = campaign.outputs.dataset.configurations
    stream = set(dataset.frame_id[dataset.has_role('calibration', 'test')].tolist())
    assert len(set(dataset.frame_id.tolist())) == len(dataset)
    for training in (node for node in campaign.called_descendants if node.process_label == 'MaceTrainCalculation'):
        seen = training.inputs.dataset.configurations
        trained = set(seen.frame_id[seen.is_labelled & seen.has_role('train', 'validation')].tolist())
        assert len(trained) == training.outputs.results['n_train'] + len(training.outputs.results['valid_frame_ids'])
        assert not trained & stream


def test_lineage_has_no_gaps(campaign):
    """Walking up from everything that came out reaches only what was put in."""
    lineage = trace(campaign)
    assert lineage.gaps == []
    assert lineage.to_text().endswith('lineage: 0 gaps')
    assert trace(campaign.outputs.model).gaps == []
    assert {item.kind for item in lineage.supplied} >= {'StructureData', 'UpfData', 'InstalledCode'}


def test_isolated_atoms_are_polarised(campaign):
    """The lowest of the tried multiplicities of silicon is the triplet."""
    dataset = campaign.outputs.dataset.configurations
    atoms = dataset.take(dataset.has_role('isolated_atom') & dataset.is_labelled)
    assert len(atoms) >= 2
    assert atoms.multiplicity[np.argmin(atoms.energy)] == 3


@pytest.mark.parametrize('command', campaign_commands(), ids=lambda command: command.text)
def test_documented_command(campaign, command, tmp_path, monkeypatch):
    """Every command of README and documentation that is about a campaign runs on this one."""
    monkeypatch.chdir(tmp_path)
    outputs = campaign.outputs
    nodes = {'MODEL': outputs.model, 'DATASET': outputs.dataset, 'SELECTION': outputs.selections.iteration_00}
    frame = outputs.selections.iteration_00.decision.selected_ids[-1]
    result = command.invoke(PK=campaign.pk, FRAME=frame, **{name: node.pk for name, node in nodes.items()})
    assert result.exit_code == 0, result.output


def test_documented_python(campaign):
    """The blocks of the pages on decisions and calibration run, one after the other, on this campaign."""
    scope = {'PK': campaign.pk}
    for page in ('read_decision', 'topics/calibration'):
        found = [block for block in blocks('python') if page in block.source]
        assert found
        for block in found:
            exec(compile(block.text, block.source, 'exec'), scope)


def test_report_shows_the_campaign(campaign, tmp_path):
    """The report is one file that needs nothing else, with the sections that a reader looks for."""
    write_report(campaign, tmp_path / 'report.html')
    page = (tmp_path / 'report.html').read_text(encoding='utf-8')
    for title in (
        'Learning curve',
        'Errors on random frames',
        'know where it is wrong',
        'selected, and why',
        'Level of theory',
        'software',
    ):
        assert title in page
    assert '<svg' in page
    assert 'src="http' not in page


def test_repeated_with_reuse_it_starts_no_dft(campaign, campaign_builder):
    """The same campaign again takes every label from the first, and decides the same to the last bit."""
    again = submit(campaign_builder(reuse=True))
    wait(again, lambda: again.is_terminated, 600)
    assert again.is_finished_ok, again.exit_message
    assert pw_calculations(again) == 0
    assert _hashes(again) == _hashes(campaign)
    assert trace(again).gaps == []


@pytest.mark.long
def test_killed_while_labelling(campaign, campaign_builder, started_daemon_client):
    """The daemon dies in the middle of labelling; started again, the campaign ends as if nothing had happened."""
    killed = submit(campaign_builder(reuse=False))
    wait(killed, lambda: pw_calculations(killed) >= 4, 200)
    kill_daemon(started_daemon_client)
    assert not killed.is_terminated
    restart_daemon(started_daemon_client)
    wait(killed, lambda: killed.is_terminated, 900)
    assert killed.is_finished_ok, killed.exit_message
    assert _hashes(killed) == _hashes(campaign)
    assert trace(killed).gaps == []
