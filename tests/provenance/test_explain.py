"""What the graph says of a frame, against the decisions that are in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from aiida_mlipal.cli import main
from aiida_mlipal.provenance.explain import explain_frame, summarise
from aiida_mlipal.provenance.frames import find_frame
from tests.report.campaign_graph import finished_campaign


@pytest.fixture
def campaign(aiida_profile):
    return finished_campaign()


@pytest.fixture
def second(campaign):
    """Return the decision of the second iteration, which has a trust window."""
    return campaign.outputs.selections.iteration_01


def explain(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(main, ['explain', *map(str, arguments)])
    return result.exit_code, result.stdout + (result.stderr if result.exit_code else '')


def test_a_frame_that_was_taken(campaign, second):
    decision = second.decision
    row = int(np.flatnonzero(decision.klass == 'selected')[0])
    story = explain_frame(str(decision.frame_id[row]))
    (verdict,) = story.decisions
    assert (verdict.selection, verdict.campaign, verdict.iteration) == (second.pk, campaign.pk, 1)
    assert (verdict.klass, verdict.rank, verdict.gain) == ('selected', decision.rank[row], decision.gain[row])
    assert verdict.calibrated == decision.calibrated[row]
    assert verdict.window.calibration == second.creator.inputs.calibration.pk
    assert verdict.window.n_frames == len(verdict.window.frame_ids) == 2
    known = second.creator.inputs.dataset.configurations
    assert set(known.role[known.index_of(verdict.window.frame_ids)]) == {'calibration'}

    pool = second.creator.inputs.pool.configurations
    assert story.origin.trajectory == pool.trajectory[row]
    assert (story.origin.step, story.origin.plan, story.origin.formula) == (pool.step[row], 'nvt', 'Cu4')
    assert story.origin.maker.startswith('MaceExploreCalculation<')
    assert story.label.status == 'labelled'
    assert story.label.calculation.startswith('AseLabelCalculation<')
    assert story.label.core_s == pytest.approx(1e-4 * 44**3)
    # The last training alone has seen it.
    dataset = campaign.outputs.dataset
    role = dataset.configurations.role[dataset.configurations.index_of([story.frame_id])[0]]
    assert story.datasets == {dataset.pk: role}
    assert story.models == [campaign.outputs.model.pk]


def test_a_frame_that_was_left_over(campaign):
    decision = campaign.outputs.selections.iteration_00.decision
    left = np.flatnonzero(decision.klass == 'candidate')
    worst = int(left[np.argmin(decision.gain[left])])
    story = explain_frame(str(decision.frame_id[worst]))
    (verdict,) = story.decisions
    assert (verdict.rank, verdict.place) == (None, len(left))
    assert (story.label, story.datasets, story.models) == (None, {}, [])
    text = story.to_text()
    assert f'By its score it was number {len(left)} of the {len(left)} that were left over.' in text
    assert 'preferred' in text
    assert 'There was no trust window: no calibration frames were labelled yet.' in text
    assert text.endswith('It has no label.\nNo dataset holds it.\nNo model was trained on it.')


def test_a_frame_that_the_model_knew(second):
    decision = second.decision
    row = int(np.flatnonzero(decision.klass == 'accurate')[0])
    text = explain_frame(str(decision.frame_id[row])).to_text()
    assert f'(decision {second.pk}, method `max_det`): accurate. Its expected force error of ' in text
    assert f'by the calibration {second.creator.inputs.calibration.pk} on 2 random frames' in text


def test_a_seed_whose_label_was_rejected(campaign):
    dataset = campaign.outputs.dataset.configurations
    (row,) = np.flatnonzero(dataset.status == 'rejected')
    story = explain_frame(str(dataset.frame_id[row]))
    assert story.decisions == []
    assert story.label.reason == 'PwCalculation exited with 410: the SCF cycle did not converge'
    assert story.label.n_attempts == 3
    assert set(story.datasets.values()) == {'rejected'}
    assert story.models == []
    assert 'No decision ever saw it.' in story.to_text()
    assert 'in 3 attempts' in story.to_text()


def test_a_decision_as_a_whole(second):
    summary = summarise(second)
    assert sum(summary.counts.values()) == summary.n_candidates == 30
    for klass, reasons in summary.reasons.items():
        assert sum(number for _, number in reasons) == summary.counts[klass]
    assert summary.settings['method'] == 'max_det'


def test_command(campaign, second):
    decision = second.decision
    frame = str(decision.frame_id[decision.klass == 'selected'][0])
    code, text = explain(frame)
    assert code == 0
    assert text.startswith(f'frame {frame}\n')
    code, output = explain(frame[:20], '--json')
    assert code == 0
    assert json.loads(output) == json.loads(json.dumps(explain_frame(frame).to_dict()))
    code, text = explain(second.pk)
    assert code == 0
    assert text.startswith(f'decision {second.pk}, iteration 1: of 30 frames ')
    code, output = explain(campaign.pk, '--json')
    assert code == 0, output
    assert [summary['iteration'] for summary in json.loads(output)] == [0, 1]


def test_bad_identifiers(campaign, second):
    frame = str(second.decision.frame_id[0])
    code, text = explain(frame[:12] + 'x')
    assert code == 1
    assert f'there is no frame `{frame[:12]}x` in this profile. The nearest identities are {frame}' in text
    code, text = explain('f')
    assert code == 1
    assert 'frames begin with `f`' in text
    assert 'Give more of it.' in text
    code, text = explain('999999999')
    assert code == 1
    assert 'there is neither a node nor a frame `999999999`' in text
    code, text = explain(campaign.inputs.budget.pk)
    assert code == 1
    assert f'node {campaign.inputs.budget.pk} is a Dict without decisions' in text
    assert find_frame(frame[:16]) == frame
