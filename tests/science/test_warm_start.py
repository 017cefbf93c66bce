"""What a training that goes on looks at, and with which settings."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_settings import TrainingSettings
from aiida_mlipal.science.warm_start import (
    WarmStartSettings,
    choose_copies,
    load_copies,
    repeat,
    save_copies,
    warm_settings,
)
from tests.science.test_splits import _frames

SETTINGS = WarmStartSettings(every=4, replay=0.5, hard=0.2, weight=3)


def test_new_and_hard_frames_count_more_and_some_old_ones_are_replayed():
    ids = _frames(30).frame_id
    new = np.arange(30) >= 20
    error = np.arange(30.0)
    copies = choose_copies(ids, error, new, SETTINGS, seed=1)
    assert set(copies[new]) == {3}
    assert copies[16:20].tolist() == [3] * 4, 'the largest errors among the old'
    assert ((copies[:16] == 0) | (copies[:16] == 1)).all()
    assert 6 <= copies[:16].sum() <= 10
    order = np.random.default_rng(0).permutation(30)
    assert choose_copies(ids[order], error[order], new[order], SETTINGS, seed=1).tolist() == copies[order].tolist()
    others = {tuple(choose_copies(ids, error, new, SETTINGS, seed=seed)) for seed in range(5)}
    assert len(others) > 1


def test_a_frame_without_an_error_is_hard():
    error = np.ones(10)
    error[4] = np.nan
    copies = choose_copies(_frames(10).frame_id, error, np.zeros(10, dtype=bool), WarmStartSettings(hard=0.1), seed=1)
    assert copies[4] == 2


def test_frames_are_repeated_in_their_order(tmp_path):
    frames = _frames(4)
    save_copies(frames.frame_id[:3], np.array([0, 2, 1]), tmp_path / 'copies.npz')
    repeated = repeat(frames, load_copies(tmp_path / 'copies.npz'))
    assert repeated.frame_id.tolist() == frames.frame_id[[1, 1, 2, 3]].tolist()
    with pytest.raises(ValueError, match='leaves out all 4 training frames'):
        repeat(frames, dict.fromkeys(frames.frame_id.tolist(), 0))


def test_a_training_that_goes_on_is_short_and_gentle():
    training = {'seeds': [1, 2], 'max_num_epochs': 50, 'lr': 0.02, 'num_channels': 8}
    settings = from_dict(TrainingSettings, warm_settings(training, WarmStartSettings(epochs=0.2, lr=0.5), [7, 8]))
    assert (settings.seeds, settings.max_num_epochs, settings.num_channels) == ((7, 8), 10, 8)
    assert settings.lr == pytest.approx(0.01)
    assert settings.lr * settings.lr_scheduler_gamma**10 == pytest.approx(0.001)


def test_every_so_many_iterations_training_begins_anew():
    assert [WarmStartSettings(every=3).applies(index) for index in range(5)] == [False, True, True, False, True]
    assert not any(WarmStartSettings().applies(index) for index in range(5))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'every': 0}, '`every` must be an integer of at least 1'),
        ({'epochs': 0.0}, '`epochs` must be above 0'),
        ({'replay': 2}, '`replay` must be a number from 0 to 1'),
        ({'replya': 0.5}, 'Did you mean `replay`'),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(WarmStartSettings, settings)
