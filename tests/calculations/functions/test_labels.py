"""Label chunks: what is missing, in which pieces, and put together again."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from ase.build import bulk

from aiida_mlipal.calculations.functions.labels import assemble_labels, missing_frames, split_into_chunks
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations

THEORY = {'code': 'test', 'cutoff': 30}


def _frames(n_frames: int, seed: int = 0) -> Configurations:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = bulk('Si')
        atoms.positions += rng.normal(scale=0.05, size=(2, 3))
        frames.append(atoms)
    return Configurations.from_atoms(frames)


def _labelled(frames: Configurations, statuses: list[str], energy: float = -1.0, theory=THEORY) -> ConfigurationsData:
    good = np.array(statuses) == 'labelled'
    pulls = np.tile([[0.5], [-0.5]], (len(frames), 1))  # of two atoms on each other
    return ConfigurationsData(
        frames.with_columns(
            energy=np.where(good, energy, np.nan),
            forces=np.where(np.repeat(good, frames.n_atoms)[:, None], pulls, np.nan) * np.ones((1, 3)),
            stress=np.where(good[:, None], 0.1, np.nan) * np.ones((1, 6)),
            status=statuses,
            reason=['' if ok else 'SCF' for ok in good],
        ),
        level_of_theory=theory,
    )


def test_missing_frames_are_those_without_an_accepted_label_each_once():
    frames = _frames(4)
    twice = Configurations.concatenate([frames, frames.take([3])])
    known = _labelled(frames.take([0, 1]), ['labelled', 'rejected'])
    missing = missing_frames(ConfigurationsData(twice), known=known).configurations
    assert missing.frame_id.tolist() == frames.frame_id[[1, 2, 3]].tolist()


def test_chunks_hold_all_frames_in_order():
    frames = _frames(130)
    chunks = split_into_chunks(ConfigurationsData(frames))
    assert sorted(chunks) == ['chunk_000', 'chunk_001', 'chunk_002']
    parts = [chunks[name].configurations for name in sorted(chunks)]
    assert [len(part) for part in parts] == [64, 64, 2]
    assert Configurations.concatenate(parts).frame_id.tolist() == frames.frame_id.tolist()


def test_assembled_labels_follow_the_identity_and_keep_every_row():
    frames = _frames(3)
    first = _labelled(frames.take([2, 0]), ['labelled', 'rejected'], energy=-2.0)
    second = _labelled(frames.take([0]), ['labelled'], energy=-3.0)
    result = assemble_labels(ConfigurationsData(frames), orm.Dict({}), a=first, b=second)
    labels = result.configurations
    assert labels.status.tolist() == ['labelled', 'rejected', 'labelled']
    assert labels.energy[[0, 2]].tolist() == [-3.0, -2.0]
    assert labels.reason[1] == 'no calculation returned a label'
    np.testing.assert_array_equal(labels.positions, frames.positions)
    assert result.level_of_theory == THEORY


def test_two_levels_of_theory_are_refused_line_by_line():
    frames = _frames(2)
    first = _labelled(frames.take([0]), ['labelled'])
    second = _labelled(frames.take([1]), ['labelled'], theory={'code': 'test', 'cutoff': 40})
    with pytest.raises(ValueError, match=r'`a` .* and `b` .* have different levels of theory:\n  cutoff: 30 -> 40'):
        assemble_labels(ConfigurationsData(frames), orm.Dict({}), a=first, b=second)
