"""A stored decision, decided again: the same to the last bit, or different where it should be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from aiida import orm
from click.testing import CliRunner

from aiida_mlipal.cli import main
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.provenance.replay import replay
from tests.data.conftest import make_decision
from tests.report.campaign_graph import finished_campaign


@pytest.fixture(params=['iteration_00', 'iteration_01'])
def selection(request, aiida_profile):
    return finished_campaign().outputs.selections[request.param]


def run(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(main, ['replay', *map(str, arguments)])
    return result.exit_code, result.stdout + (result.stderr if result.exit_code else '')


def test_the_same_again_is_the_stored_decision(selection):
    result = replay(selection, {})
    assert result.differing_columns == []
    assert result.n_changed_classes == 0
    assert {change.group for change in result.changes} == {'taken by both'}
    assert len(result.changes) == len(selection.decision.selected_ids)


@pytest.mark.parametrize('method', ['random', 'lcmd', 'cost_aware', 'entropy_gain', 'weighted_max_det'])
def test_another_strategy_changes_what_is_picked_and_stores_nothing(aiida_profile, method):
    selection = finished_campaign().outputs.selections.iteration_00  # in the other, the window leaves no choice
    before = orm.QueryBuilder().append(orm.Node).count()
    result = replay(selection, {'method': method, 'first_method': method})
    assert orm.QueryBuilder().append(orm.Node).count() == before
    stored = selection.decision
    groups = {}
    for change in result.changes:
        groups.setdefault(change.group, set()).add(change.frame_id)
    taken = groups.get('taken by both', set()) | groups.get('only in the stored decision', set())
    assert taken == set(stored.selected_ids)
    stream = set(stored.frame_id[stored.klass == 'stream'].tolist())
    assert stream <= groups['taken by both']  # the random stream does not depend on it
    new = groups.get('only in the replay', set())
    assert len(new) == len(groups.get('only in the stored decision', set()))
    assert set(stored.klass[np.isin(stored.frame_id, list(new))]) <= {'candidate'}
    assert new


def test_more_labels(selection):
    result = replay(selection, {'n_labels': 12})
    assert [change.group for change in result.changes].count('only in the replay') == 2


def test_command(selection):
    code, text = run(selection.pk)
    assert code == 0, text
    assert text.endswith('The replay is the stored decision, bit for bit.\n')
    code, text = run(selection.pk, '--strategy', 'random', '--seed', '99')
    assert code == 0, text
    assert 'max_det with seed 3, replayed with random and seed 99' in text
    assert 'only in the replay' in text
    code, output = run(selection.pk, '--set', 'quotas={trajectory: 0.2}', '--json')
    assert code == 0, output
    assert json.loads(output)['new'] == {'method': 'max_det', 'seed': 3}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--strategy', 'maxdet'), r'unknown selection method `maxdet`. Did you mean `max_det`? Valid: '),
        (('--set', 'n_label=3'), 'unknown key `n_label`'),
        (('--set', 'n_labels'), '`--set n_labels` is not NAME=VALUE'),
    ],
)
def test_bad_settings(selection, arguments, message):
    code, text = run(selection.pk, *arguments)
    assert code == 1
    assert message in text


def test_what_cannot_be_replayed(aiida_profile):
    orphan = SelectionData(make_decision()).store()
    code, text = run(orphan.pk)
    assert code == 1
    assert f'the inputs of SelectionData<{orphan.pk}> are not in this profile' in text
    code, text = run(orm.Int(3).store().pk)
    assert code == 1
    assert 'is a Int and not a decision' in text
    assert run('999999999')[0] == 1
