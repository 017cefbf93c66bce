"""A dataset grows, and what each frame is for is recorded once."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlipal.calculations.functions.grow import grow_dataset
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_data import split
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.science.builders import evaluation_of, silicon

THEORY = {'code': 'none', 'cutoff': 30}
FIXED = {'training': {'n_members': 2, 'valid_fraction': 0.3}, 'selection': {'duplicate_distance': 0.01}}


def _labels(n: int, seed: int, role: str = 'train', frames=None) -> Configurations:
    frames = silicon(n, seed) if frames is None else frames
    n_atoms = sum(map(len, frames))
    return Configurations.from_atoms(
        frames, role=role, status='labelled', energy=np.full(len(frames), -5.0), forces=np.zeros((n_atoms, 3))
    )


def _grow(labels, **known) -> ConfigurationsData:
    inputs = {name: orm.Dict(value) for name, value in FIXED.items()}
    return grow_dataset(
        labels=ConfigurationsData(labels, THEORY),
        seed=orm.Int(4),
        **inputs,
        **known,
        metadata={'store_provenance': False},
    )


def _roles(node: ConfigurationsData) -> dict[str, str]:
    frames = node.configurations
    return dict(zip(frames.frame_id.tolist(), frames.role.tolist(), strict=True))


def _evaluation(frames: Configurations, descriptors) -> EvaluationData:
    return EvaluationData(evaluation_of(frames, descriptors, spread=np.full(len(frames), 0.1)), 'ab')


def test_roles_are_recorded_and_never_change():
    first = _grow(_labels(12, 1))
    assert 4 <= list(_roles(first).values()).count('validation') <= 6
    more = Configurations.concatenate([_labels(10, 2), _labels(4, 3, 'test'), _labels(3, 4, 'isolated_atom')])
    second = _grow(more, dataset=first)
    assert {frame: _roles(second)[frame] for frame in _roles(first)} == _roles(first)
    assert second.base.attributes.get('roles')['test'] == 4
    assert second.base.attributes.get('roles')['isolated_atom'] == 3
    backwards = _grow(more.take(np.arange(len(more))[::-1]), dataset=first)
    assert _roles(backwards) == _roles(second)


def test_a_dataset_of_the_user_is_undecided():
    brought = ConfigurationsData(_labels(30, 1), THEORY)
    grown = _grow(_labels(10, 2), dataset=brought)
    assert 'validation' in {_roles(grown)[frame] for frame in brought.configurations.frame_id.tolist()}


def test_another_seed_draws_other_frames():
    node = ConfigurationsData(_labels(40, 1), THEORY)
    inputs = {name: orm.Dict(value) for name, value in FIXED.items()}
    bare = {'metadata': {'store_provenance': False}}
    drawn = [_roles(grow_dataset(labels=node, seed=orm.Int(seed), **inputs, **bare)) for seed in (1, 2)]
    assert drawn[0] != drawn[1]


def test_repeats_of_the_stream_never_reach_a_training_file(tmp_path):
    """By the descriptors of a model, old and new ones; what is written for MACE holds neither stream nor repeats."""
    old, new = _labels(12, 1), _labels(6, 2)
    streamed = _labels(2, 3, 'calibration')
    rng = np.random.default_rng(0)
    table = rng.normal(size=(len(old), 5))
    fresh, stream_rows = rng.normal(size=(len(new), 5)), rng.normal(size=(2, 5))
    fresh[1] = stream_rows[0] + 1e-6  # a new candidate that repeats the stream
    stream_rows[1] = table[3] + 1e-6  # a random frame that repeats one which was trained on before
    first = _grow(old)
    pool = Configurations.concatenate([new, streamed])
    grown = _grow(
        pool,
        dataset=first,
        dataset_evaluation=_evaluation(old, table),
        pool_evaluation=_evaluation(pool, np.concatenate((fresh, stream_rows))),
    )
    withheld = {frame for frame, role in _roles(grown).items() if role == 'withheld'}
    assert withheld == {old.frame_id[3], new.frame_id[1]}
    train, valid = split(grown.configurations, TrainingSettings(seeds=(1,)))
    seen = {*train.frame_id.tolist(), *valid.frame_id.tolist()}
    assert not seen & {*withheld, *streamed.frame_id.tolist()}
    assert len(seen) == 16


def test_repeats_of_a_stream_that_the_user_brings():
    """Before there is a model, by fingerprints."""
    frames = silicon(8, 5)
    moved = frames[2].copy()
    moved.positions += [0.2, 0.1, 0.3]
    labels = Configurations.concatenate([_labels(0, 0, frames=frames), _labels(0, 0, 'test', frames=[moved])])
    roles = _roles(_grow(labels))
    assert [frame for frame, role in roles.items() if role == 'withheld'] == [labels.frame_id[2]]


def test_two_levels_of_theory_do_not_meet():
    first = ConfigurationsData(_labels(5, 1), {'cutoff': 30})
    with pytest.raises(ValueError, match=r'code: \(absent\) -> none'):
        _grow(_labels(5, 2), dataset=first)
