"""Tests of :mod:`aiida_mlipal.data.evaluation`."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError

from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.evaluation import Evaluation
from tests.data.conftest import make_evaluation


def test_round_trip(evaluation):
    node = EvaluationData(evaluation, 'abc').store()
    loaded = orm.load_node(node.pk).evaluation
    for name, column in evaluation.columns().items():
        assert column.tobytes() == loaded.columns()[name].tobytes(), name
        assert column.dtype == loaded.columns()[name].dtype, name


def test_equal_content_equal_hash(tmp_path, evaluation):
    evaluation.save(tmp_path / 'evaluation.npz')
    again = Evaluation.load(tmp_path / 'evaluation.npz')
    first, second = (EvaluationData(item, 'abc').store() for item in (evaluation, again))
    assert first.base.caching.compute_hash() == second.base.caching.compute_hash()
    other_model = EvaluationData(evaluation, 'abd').store()
    assert other_model.base.caching.compute_hash() != first.base.caching.compute_hash()


def test_attributes_and_query(evaluation):
    node = EvaluationData(evaluation, 'digest-for-query').store()
    fields = EvaluationData.fields
    query = orm.QueryBuilder().append(
        EvaluationData,
        filters=(fields.model_sha256 == 'digest-for-query') & (fields.max_uncertainty > 0.0) & (fields.n_members == 4),
        project=['id', fields.descriptor_size, fields.max_uncertainty],
    )
    ((pk, size, largest),) = query.all()
    assert (pk, size) == (node.pk, 5)
    assert largest == pytest.approx(evaluation.forces_std.max())


def test_single_model_has_no_uncertainty():
    node = EvaluationData(make_evaluation(n_members=1), 'abc').store()
    assert node.base.attributes.get('max_uncertainty') is None
    assert np.isnan(orm.load_node(node.pk).evaluation.forces_std).all()


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('n_frames', 2, 'n_frames is 2'),
        ('n_members', 3, 'member_energy must have'),
        ('model_sha256', '', 'model_sha256'),
    ],
)
def test_validation(evaluation, key, value, message):
    node = EvaluationData(evaluation, 'abc')
    node.base.attributes.set(key, value)
    with pytest.raises(ValidationError, match=message):
        node.store()


def test_flat_member_energies_are_refused(evaluation):
    columns = evaluation.columns() | {'member_energy': evaluation.energy}
    with pytest.raises(ValueError, match=r'`member_energy` must have shape \(3, any\), got \(3,\)'):
        Evaluation(**columns)
