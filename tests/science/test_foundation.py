"""What a foundation model decides, and which frames can be replayed."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.foundation import (
    ARCHITECTURE,
    InspectSettings,
    contradictions,
    decided,
    fine_tuning,
    replay_head,
    unknown_elements,
)
from aiida_mlipal.science.training_data import head_data
from aiida_mlipal.science.training_settings import TrainingSettings
from tests.runners.fine_tuning import alloy

SETTINGS = TrainingSettings(seeds=(1,))
MODEL = {'r_max': 4.2, 'num_channels': 8, 'radial_MLP': [16, 16], 'pair_repulsion': False}


def test_only_what_was_given_can_contradict():
    assert contradictions({'lr': 0.1, 'num_channels': 8, 'r_max': 4.2 * (1 + 1e-7)}, MODEL) == []
    assert contradictions({'radial_MLP': (16, 16)}, MODEL) == []
    found = contradictions({'r_max': 4.3, 'num_channels': 16, 'radial_MLP': [16], 'pair_repulsion': True}, MODEL)
    assert [text.split('`')[1] for text in found] == ['num_channels', 'pair_repulsion', 'r_max', 'radial_MLP']
    assert found[2] == '`r_max` is 4.3, but the foundation model has 4.2: remove `r_max` from the settings.'


def test_the_model_decides_the_architecture_alone():
    settings = decided(SETTINGS, {**MODEL, 'lr': 7.0, 'later': 1})
    assert (settings.r_max, settings.num_channels, settings.radial_MLP) == (4.2, 8, (16, 16))
    assert settings.lr == SETTINGS.lr


def test_protocols_leave_the_architecture_out():
    section = {'n_members': 4, 'r_max': 5.0, 'num_channels': 64, 'max_num_epochs': 300}
    assert fine_tuning(section) == {'n_members': 4, 'max_num_epochs': 300, 'lr': 0.001}
    assert set(ARCHITECTURE) <= set(TrainingSettings.__dataclass_fields__)


def test_elements():
    assert unknown_elements([29, 13, 29, 14], ['Al', 'Cu']) == ['Si']


@pytest.mark.parametrize('sha256', ['', 'A' * 64, 'g' * 64, 'a' * 63])
def test_a_checksum_is_64_digits(sha256):
    with pytest.raises(ValueError, match='64 hexadecimal digits'):
        InspectSettings(sha256=sha256)


def test_frames_that_can_be_replayed():
    """Without foreign elements, without the frames that validate the main head, and with the energies of the model."""
    main = head_data(alloy(8, 1, elements=('Cu',)), {}, SETTINGS)['Default']
    mixed = alloy(30, 2)
    pure = [set(atoms.get_chemical_symbols()) == {'Cu'} for atoms in mixed.to_atoms()]
    replay = Configurations.concatenate([alloy(9, 3, elements=('Cu',)), mixed, main.valid])
    head, n_left_out = replay_head(replay, SETTINGS, main, {13: 1.0, 29: 2.0})
    assert n_left_out == len(mixed) - sum(pure)
    assert head.e0s == {29: 2.0}
    taken = Configurations.concatenate([head.train, head.valid])
    assert set(taken.numbers.tolist()) == {29}
    assert taken.has_role('train').all()
    assert not np.isin(head.train.frame_id, main.valid.frame_id).any()
    assert not set(head.train.frame_id) & set(head.valid.frame_id)


def test_too_few_frames_to_replay():
    main = head_data(alloy(8, 1, elements=('Cu',)), {}, SETTINGS)['Default']
    with pytest.raises(
        ValueError, match=r'`replay`: \d+ of 13 frames hold other elements than Cu and cannot take part'
    ):
        replay_head(
            Configurations.concatenate([alloy(10, 3, elements=('Al',)), alloy(1, 4, elements=('Cu',))]),
            SETTINGS,
            main,
            {},
        )
    with pytest.raises(ValueError, match='all its training frames validate the main head'):
        replay_head(main.valid, SETTINGS, main, {})
