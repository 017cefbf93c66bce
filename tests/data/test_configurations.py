"""Tests of :mod:`aiida_mlipal.data.configurations`."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError

from aiida_mlipal.data.base import SCHEMA_VERSION
from aiida_mlipal.data.configurations import MAX_LISTED_FRAMES, ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from tests.data.conftest import make_configurations

THEORY = {'code': 'pw.x', 'cutoff_wfc': 60 * 13.605693122994, 'pseudos': {'Si': 'd3c1'}}


def assert_identical(left: Configurations, right: Configurations) -> None:
    """Every column has the same dtype, shape and bytes."""
    for name, column in left.columns().items():
        other = right.columns()[name]
        assert column.dtype == other.dtype, name
        assert column.shape == other.shape, name
        assert column.tobytes() == other.tobytes(), name


def test_round_trip(configurations):
    node = ConfigurationsData(configurations, THEORY)
    assert_identical(node.configurations, configurations)
    loaded = orm.load_node(node.store().pk)
    assert isinstance(loaded, ConfigurationsData)
    assert_identical(loaded.configurations, configurations)
    assert loaded.configurations is loaded.configurations
    assert loaded.level_of_theory['pseudos'] == THEORY['pseudos']
    assert loaded.level_of_theory['cutoff_wfc'] == pytest.approx(THEORY['cutoff_wfc'], rel=1e-13)


def test_equal_content_equal_hash(tmp_path, configurations):
    """Two nodes that were built apart, one through a file and from other memory layouts, have one hash."""
    configurations.save(tmp_path / 'frames.npz')
    again = Configurations.load(tmp_path / 'frames.npz')
    again = again.with_columns(
        positions=np.asfortranarray(again.positions), energy=np.where(np.isnan(again.energy), -np.nan, again.energy)
    )
    first = ConfigurationsData(configurations, THEORY).store()
    second = ConfigurationsData(again, dict(reversed(THEORY.items()))).store()
    assert first.uuid != second.uuid
    assert first.base.caching.compute_hash() == second.base.caching.compute_hash()
    assert first.base.caching.get_hash() == orm.load_node(second.pk).base.caching.compute_hash()


@pytest.mark.parametrize('change', ['energy', 'role', 'theory'])
def test_other_content_other_hash(configurations, change):
    first = ConfigurationsData(configurations, THEORY).store()
    theory = {**THEORY, 'code': 'cp2k'} if change == 'theory' else THEORY
    if change == 'energy':
        configurations = configurations.with_columns(energy=np.nextafter(configurations.energy, 0))
    if change == 'role':
        configurations = configurations.with_columns(role=['validation', 'candidate', 'candidate'])
    assert ConfigurationsData(configurations, theory).store().base.caching.get_hash() != first.base.caching.get_hash()


def test_attributes(configurations):
    attributes = ConfigurationsData(configurations, THEORY).store().base.attributes.all
    expected = {
        'schema_version': SCHEMA_VERSION, 'n_frames': 3, 'n_total_atoms': 13, 'elements': ['H', 'O', 'Si'],
        'n_labelled': 1, 'n_rejected': 1, 'n_unlabelled': 1, 'roles': {'train': 1, 'candidate': 2},
        'frame_ids': configurations.frame_id.tolist(), 'statuses': ['labelled', 'rejected', 'unlabelled'],
    }  # fmt: skip
    assert {key: attributes[key] for key in expected} == expected
    assert len(attributes['level_of_theory_hash']) > 10
    unlabelled = ConfigurationsData(configurations)
    assert unlabelled.level_of_theory is None
    assert unlabelled.level_of_theory_hash == ''


def test_identities_are_listed_for_chunks_only():
    chunk, pool = (
        ConfigurationsData(make_configurations(n)).store() for n in (MAX_LISTED_FRAMES, MAX_LISTED_FRAMES + 1)
    )
    assert len(chunk.base.attributes.get('frame_ids')) == MAX_LISTED_FRAMES
    assert pool.base.attributes.get('frame_ids') is None
    assert pool.base.attributes.get('statuses') is None


def test_queries_by_field(configurations):
    """From an identity to its label is one query; typed fields filter."""
    node = ConfigurationsData(configurations, {'code': 'query'}).store()
    fields = ConfigurationsData.fields
    query = orm.QueryBuilder().append(
        ConfigurationsData,
        filters=(fields.n_frames == 3)
        & (fields.frame_ids.contains([str(configurations.frame_id[1])]))
        & (fields.level_of_theory_hash == node.level_of_theory_hash),
        project=['id', fields.n_total_atoms],
    )
    assert query.all() == [[node.pk, 13]]


def test_empty():
    node = ConfigurationsData(Configurations.empty()).store()
    assert len(orm.load_node(node.pk).configurations) == 0


def test_clone_keeps_the_content(configurations):
    node = ConfigurationsData(configurations).store()
    clone = node.clone().store()
    assert clone.uuid != node.uuid
    assert_identical(clone.configurations, configurations)
    assert clone.base.caching.get_hash() == node.base.caching.get_hash()


def test_newer_schema_says_upgrade(configurations):
    node = ConfigurationsData(configurations)
    node.base.attributes.set('schema_version', SCHEMA_VERSION + 1)
    with pytest.raises(ValueError, match='upgrade aiida-mlipal'):
        _ = node.configurations
    with pytest.raises(ValidationError, match='upgrade aiida-mlipal'):
        node.store()


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('n_frames', 4, 'n_frames is 4'),
        ('n_labelled', 3, 'statuses do not add up'),
        ('roles', {'train': 1}, 'roles do not add up'),
        ('level_of_theory', {'code': 'other'}, 'hash of the level of theory'),
        ('frame_ids', None, '`frame_ids` does not list'),
    ],
)
def test_validation(configurations, key, value, message):
    node = ConfigurationsData(configurations, THEORY)
    node.base.attributes.set(key, value)
    with pytest.raises(ValidationError, match=message):
        node.store()


def test_missing_and_unknown_columns_are_refused(configurations):
    columns = configurations.columns()
    node = ConfigurationsData(configurations)
    for name in columns:
        node.base.attributes.delete(f'array|{name}')
    node.base.repository.delete_object(node.FILE)
    node._set_columns({'enrgy': columns.pop('energy'), **columns})
    with pytest.raises(ValidationError, match=r"\['energy'\] are missing"):
        node.store()


def test_arrays_beside_the_columns_are_refused(configurations):
    node = ConfigurationsData(configurations)
    node.set_array('enrgy', np.zeros(3))
    with pytest.raises(ValidationError, match='Mismatch of files and properties'):
        node.store()


def test_columns_are_read_without_this_package(configurations):
    """The content is one file that numpy alone reads; a single column can be had as from any array node of AiiDA."""
    node = orm.load_node(ConfigurationsData(configurations).store().pk)
    assert node.base.repository.list_object_names() == ['columns.npz']
    with node.base.repository.open('columns.npz', 'rb') as handle, np.load(handle, allow_pickle=False) as archive:
        assert archive.files == list(configurations.columns())
        assert archive['positions'].tobytes() == configurations.positions.tobytes()
    assert node.get_array('forces').tobytes() == configurations.forces.tobytes()
    assert node.get_shape('forces') == configurations.forces.shape
    with pytest.raises(KeyError, match='enrgy'):
        node.get_array('enrgy')


def test_a_node_with_one_file_per_column_is_still_read(configurations):
    """Schema version 2, which also lacked columns that came later."""
    columns = configurations.columns()
    del columns['initial_moments']
    node = ConfigurationsData(configurations)
    for name in configurations.columns():
        node.base.attributes.delete(f'array|{name}')
    node.base.repository.delete_object(node.FILE)
    node.base.attributes.set('schema_version', 2)
    for name, column in columns.items():
        node.set_array(name, np.array(column))
    assert node.configurations == configurations
    assert node.get_array('energy').tobytes() == configurations.energy.tobytes()


def test_plain_frames_are_refused(configurations):
    with pytest.raises(TypeError, match='from_atoms'):
        ConfigurationsData(configurations.to_atoms())


def test_no_pickle(configurations):
    """Text columns are plain unicode arrays."""
    node = ConfigurationsData(configurations).store()
    assert node.get_array('reason').dtype.kind == 'U'
