"""Tests of :mod:`aiida_mlipal.data.selection`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError

from aiida_mlipal.data.selection import SelectionData
from tests.data.conftest import make_decision


def test_round_trip(decision):
    loaded = orm.load_node(SelectionData(decision, uncertain_share=0.25).store().pk).decision
    for name, column in decision.columns().items():
        assert column.dtype == loaded.columns()[name].dtype, name
        assert column.tobytes() == loaded.columns()[name].tobytes(), name
    assert (loaded.method, loaded.seed, loaded.iteration) == ('max_det', 11, 2)
    assert loaded.thresholds == pytest.approx(decision.thresholds, rel=1e-13)
    assert loaded.selected_ids == ['fa', 'fc', 'fb']


def test_equal_content_equal_hash():
    first, second = (SelectionData(make_decision(), uncertain_share=0.25).store() for _ in range(2))
    assert first.base.caching.compute_hash() == second.base.caching.compute_hash()
    loaded = SelectionData(orm.load_node(first.pk).decision, uncertain_share=0.25).store()
    assert loaded.base.caching.compute_hash() == first.base.caching.compute_hash()
    others = [
        SelectionData(make_decision(), uncertain_share=0.5),
        SelectionData(replace(make_decision(), seed=12), uncertain_share=0.25),
        SelectionData(replace(make_decision(), reason=['Drawn.', 'Second.', 'First.', '']), uncertain_share=0.25),
    ]
    hashes = {node.store().base.caching.compute_hash() for node in (first, *others)}
    assert len(hashes) == 4


def test_attributes(decision):
    attributes = SelectionData(decision).store().base.attributes.all
    assert attributes['n_candidates'] == 4
    assert attributes['n_selected'] == 2
    assert attributes['n_stream'] == 1
    assert attributes['counts']['accurate'] == 1
    assert attributes['quantiles']['max'] == 0.9
    assert attributes['uncertain_share'] is None


def test_query_by_field(decision):
    node = SelectionData(replace(decision, seed=4711), uncertain_share=0.25).store()
    SelectionData(replace(decision, seed=4712), uncertain_share=0.25).store()
    fields = SelectionData.fields
    query = orm.QueryBuilder().append(
        SelectionData,
        filters=(fields.n_selected > 1) & (fields.method == 'max_det') & (fields.seed == 4711),
        project=['id', fields.thresholds, fields.uncertain_share],
    )
    ((pk, thresholds, share),) = query.all()
    assert pk == node.pk
    assert thresholds['lower'] == pytest.approx(1 / 3)
    assert share == 0.25
    assert not orm.QueryBuilder().append(SelectionData, filters=fields.n_selected > 10).all()


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('n_candidates', 5, 'every column must have 5 rows'),
        ('counts', {'selected': 2}, 'do not add up to 4'),
        ('n_selected', 9, 'n_selected is 9'),
        ('uncertain_share', 1.5, 'between 0 and 1'),
    ],
)
def test_validation(decision, key, value, message):
    node = SelectionData(decision)
    node.base.attributes.set(key, value)
    with pytest.raises(ValidationError, match=message):
        node.store()


def test_a_node_of_an_earlier_version_is_read(decision):
    """Its settings and notes were not written down, and its thresholds held the factor of the calibration."""
    node = SelectionData(replace(decision, thresholds={'lower': 0.1, 'upper': 1.0, 'alpha': 3.0}))
    for name in ('settings', 'notes'):
        node.base.attributes.delete(name)
    loaded = orm.load_node(node.store().pk).decision
    assert (loaded.settings, loaded.notes) == ({}, [])
    assert loaded.thresholds['alpha'] == 3.0
    assert loaded.selected_ids == decision.selected_ids


def test_settings_and_notes_are_kept(decision):
    given = replace(decision, settings={'n_labels': 3, 'quotas': {'plan': {'nvt': 0.5}}}, notes=['All were taken.'])
    loaded = orm.load_node(SelectionData(given).store().pk).decision
    assert (loaded.settings, loaded.notes) == (given.settings, given.notes)
