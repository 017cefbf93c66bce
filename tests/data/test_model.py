"""Tests of :mod:`aiida_mlipal.data.model`."""

from __future__ import annotations

import hashlib
import io

import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError

from aiida_mlipal.data.base import SCHEMA_VERSION
from aiida_mlipal.data.model import METADATA, MlipModelData
from tests.data.conftest import make_model, model_metadata


def test_from_paths_and_from_file_objects_alike(tmp_path):
    """What counts is the content, not where it came from or how the file was called."""
    path = tmp_path / 'silicon_run-1.model'
    path.write_bytes(b'weights')
    from_path = MlipModelData([path], metadata=model_metadata()).store()
    from_handle = MlipModelData([io.BytesIO(b'weights')], metadata=model_metadata()).store()
    assert from_path.base.caching.compute_hash() == from_handle.base.caching.compute_hash()
    other = MlipModelData([io.BytesIO(b'other')], metadata=model_metadata()).store()
    assert other.base.caching.compute_hash() != from_path.base.caching.compute_hash()


def test_member():
    node = orm.load_node(make_model(seed=5).store().pk)
    assert (node.kind, node.n_members, node.seeds, node.elements) == ('member', 1, [5], ['Si'])
    assert node.base.attributes.get('uncertainty') == 'none'
    assert node.sha256 == [hashlib.sha256(b'weights of 5').hexdigest()]
    assert node.digest == hashlib.sha256(node.sha256[0].encode()).hexdigest()
    with node.open() as handle:
        assert handle.read() == b'weights of 5'


def test_committee():
    members = [make_model(seed, errors={'force_rmse': seed / 10}).store() for seed in (3, 1, 2)]
    node = MlipModelData.committee(members).store()
    assert (node.kind, node.n_members, node.seeds) == ('committee', 3, [3, 1, 2])
    assert node.member_names == ['member_00.model', 'member_01.model', 'member_02.model']
    assert node.sha256 == [member.sha256[0] for member in members]
    attributes = node.base.attributes.all
    assert attributes['uncertainty'] == 'committee'
    assert attributes['errors']['member_01'] == {'force_rmse': 0.1}
    assert attributes['settings_hash'] == 'def'
    with node.as_path() as folder:
        assert (folder / 'member_02.model').read_bytes() == b'weights of 2'
    again = MlipModelData.committee([orm.load_node(member.pk) for member in members]).store()
    assert again.base.caching.compute_hash() == node.base.caching.compute_hash()
    swapped = MlipModelData.committee(members[::-1]).store()
    assert swapped.digest != node.digest


def test_committee_of_a_retried_member_keeps_its_differences():
    node = MlipModelData.committee([make_model(1), make_model(2, settings_hash='xyz', software={'mace': '0.3.17'})])
    assert node.base.attributes.get('settings_hash') not in ('def', 'xyz')
    assert node.base.attributes.get('software') == {'mace': '0.3.16 | 0.3.17'}


def test_committee_of_one_is_a_committee_without_uncertainty():
    node = MlipModelData.committee([make_model()]).store()
    assert (node.kind, node.base.attributes.get('uncertainty')) == ('committee', 'none')


@pytest.mark.parametrize('kind', ['llpr', 'heads'])
def test_one_model_keeps_its_own_uncertainty_in_a_committee_of_one(kind):
    member = make_model(1, uncertainty=kind).store()
    assert MlipModelData.committee([member]).store().base.attributes.get('uncertainty') == kind
    committee = MlipModelData.committee([member, make_model(2, uncertainty=kind)]).store()
    assert committee.base.attributes.get('uncertainty') == 'committee'


@pytest.mark.parametrize(
    ('second', 'message'),
    [
        ({'seed': 1}, 'different seeds'),
        ({'seed': 2, 'elements': ['Ge']}, 'agree in `elements`'),
        ({'seed': 2, 'r_max': 5.0}, 'agree in `r_max`'),
        ({'seed': 2, 'level_of_theory_hash': 'other'}, 'agree in `level_of_theory_hash`'),
    ],
)
def test_committees_that_make_no_sense(second, message):
    with pytest.raises(ValueError, match=message):
        MlipModelData.committee([make_model(1), make_model(**second)])


def test_no_committee_of_committees_or_of_nobody():
    committee = MlipModelData.committee([make_model(1), make_model(2)])
    with pytest.raises(ValueError, match='single models'):
        MlipModelData.committee([committee, make_model(3)])
    with pytest.raises(ValueError, match='at least one member'):
        MlipModelData.committee([])


def test_heads():
    """A model of one head says nothing of heads, so that its hash is that of models made before there were any."""
    node = make_model().store()
    assert 'heads' not in node.base.attributes.all
    assert node.heads == {'Default': node.level_of_theory_hash}
    heads = {'Default': 'abc', 'pbe': 'xyz'}
    members = [make_model(seed, heads=heads).store() for seed in (1, 2)]
    committee = orm.load_node(MlipModelData.committee(members).store().pk)
    assert committee.heads == heads
    with pytest.raises(ValueError, match='agree in `heads`'):
        MlipModelData.committee([members[0], make_model(3)])
    with pytest.raises(ValueError, match='`heads` must be'):
        make_model(heads=['pbe'])


@pytest.mark.parametrize('key', list(METADATA))
def test_missing_metadata(key):
    metadata = model_metadata()
    del metadata[key]
    with pytest.raises(ValueError, match=f'`{key}` is missing'):
        MlipModelData([io.BytesIO(b'')], metadata=metadata)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'cutoff': 4.0}, '`cutoff` is unknown'),
        ({'elements': 'Si'}, '`elements` must be'),
        ({'seeds': [1, 2]}, r'one entry per file \(1\), got 2'),
        ({'dtype': 'float16'}, '`dtype` must be'),
        ({'uncertainty': 'committee'}, r'`uncertainty` of 1 file\(s\) must be heads or llpr or none'),
    ],
)
def test_wrong_metadata(changes, message):
    with pytest.raises(ValueError, match=message):
        MlipModelData([io.BytesIO(b'')], metadata=model_metadata(**changes))


def test_no_files():
    with pytest.raises(ValueError, match='at least one file'):
        MlipModelData([], metadata=model_metadata(seeds=[]))


def test_query_by_field():
    node = make_model(991).store()
    fields = MlipModelData.fields
    query = orm.QueryBuilder().append(
        MlipModelData, filters=(fields.kind == 'member') & (fields.digest == node.digest) & (fields.r_max > 4.0)
    )
    assert query.all(flat=True) == [node]


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('schema_version', SCHEMA_VERSION + 1, 'upgrade aiida-mlipal'),
        ('sha256', ['0' * 64], 'not the ones whose SHA-256'),
        ('kind', 'crowd', 'kind `crowd`'),
        ('r_max', None, '`r_max` must be'),
    ],
)
def test_validation(key, value, message):
    node = make_model()
    node.base.attributes.set(key, value)
    with pytest.raises(ValidationError, match=message):
        node.store()


def test_a_file_too_many_is_refused():
    node = make_model()
    node.base.repository.put_object_from_bytes(b'', 'member_01.model')
    with pytest.raises(ValidationError, match='expected the files'):
        node.store()
