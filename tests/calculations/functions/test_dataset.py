"""Datasets grow by calculations, and a clock is read each time anew."""

from __future__ import annotations

import pytest
from aiida.manage.caching import disable_caching, enable_caching
from ase.build import bulk

from aiida_mlipal.calculations.functions.dataset import merge_datasets, random_stream, read_clock
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations


def _node(lattice: list[float], role: str = 'train', theory=None) -> ConfigurationsData:
    frames = Configurations.from_atoms([bulk('Si', a=a) for a in lattice], role=role)
    return ConfigurationsData(frames, level_of_theory=theory or {'cutoff': 30})


def test_merged_datasets_keep_order_and_hold_each_frame_once():
    first, second = _node([5.3, 5.4]), _node([5.4, 5.5], role='test')
    merged = merge_datasets(dataset=first, labels=second).configurations
    expected = [*first.configurations.frame_id, second.configurations.frame_id[1]]
    assert merged.frame_id.tolist() == expected
    assert merged.role.tolist() == ['train', 'train', 'test']


def test_two_levels_are_refused_with_the_difference():
    with pytest.raises(ValueError, match=r'`dataset` .* and `labels` .*:\n  cutoff: 30 -> 40\n.*`other_datasets`'):
        merge_datasets(dataset=_node([5.3]), labels=_node([5.4], theory={'cutoff': 40}))
    with pytest.raises(ValueError, match=r'smearing: cold -> \(absent\)'):
        merge_datasets(a=_node([5.3], theory={'cutoff': 30, 'smearing': 'cold'}), b=_node([5.4]))


def test_labels_of_an_unknown_level_meet_no_others():
    labelled = Configurations.from_atoms([bulk('Si')], energy=[-1.0], status='labelled')
    known = _node([5.3])
    for nameless in (labelled, labelled.with_columns(status=['unlabelled'])):
        with pytest.raises(ValueError, match=r'cutoff: 30 -> \(absent\)'):
            merge_datasets(a=known, b=ConfigurationsData(nameless))
    bare = ConfigurationsData(Configurations.from_atoms([bulk('Si', a=5.3)]))
    assert merge_datasets(a=bare, b=ConfigurationsData(Configurations.from_atoms([bulk('Si')]))).n_frames == 2
    with pytest.raises(ValueError, match=r'^`b` .* have labels without a level of theory.*level_of_theory='):
        merge_datasets(a=bare, b=ConfigurationsData(labelled))


def test_random_stream_is_what_was_never_trained_on():
    dataset = merge_datasets(a=_node([5.3]), b=_node([5.4], role='test'), c=_node([5.5], role='calibration'))
    stream = random_stream(dataset).configurations
    assert stream.role.tolist() == ['test', 'calibration']


def test_clock_is_not_taken_from_the_cache():
    with enable_caching():
        read_clock()
        with disable_caching():
            first, second = read_clock(), read_clock()
    assert second.value > first.value
    assert not second.creator.base.caching.is_created_from_cache
