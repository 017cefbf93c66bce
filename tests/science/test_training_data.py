import numpy as np
import pytest
from ase import Atoms

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_data import reference_energies, split
from aiida_mlipal.science.training_settings import TrainingSettings


def _frames(n, role='train', status='labelled'):
    frames = [Atoms('Cu', positions=[[0.1 * i, 0.0, 1.0 if role == 'train' else 0.0]]) for i in range(n)]
    return Configurations.from_atoms(frames, energy=np.full(n, -1.0), role=role, status=status)


def test_only_labelled_training_frames():
    everything = Configurations.concatenate(
        [_frames(10), _frames(3, 'test'), _frames(2, 'calibration'), _frames(1, 'isolated_atom')]
    )
    status = everything.status.copy()
    status[4] = 'rejected'
    train, valid = split(everything.with_columns(status=status), TrainingSettings(seeds=(0,), valid_fraction=0.3))
    assert (len(train), len(valid)) == (5, 4)
    assert set(train.role) | set(valid.role) == {'train'}
    assert not set(train.frame_id) & set(valid.frame_id)
    assert everything.frame_id[4] not in {*train.frame_id, *valid.frame_id}


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    frames = _frames(20)
    drawn = {seed: set(split(frames, TrainingSettings(seeds=(0,), split_seed=seed))[1].frame_id) for seed in range(5)}
    assert len({frozenset(ids) for ids in drawn.values()}) > 1
    backwards = frames.take(np.arange(20)[::-1])
    assert set(split(backwards, TrainingSettings(seeds=(9,), split_seed=3))[1].frame_id) == drawn[3]


@pytest.mark.parametrize('fraction', [0.01, 0.99])
def test_there_is_always_a_frame_for_either(fraction):
    train, valid = split(_frames(2), TrainingSettings(seeds=(0,), valid_fraction=fraction))
    assert (len(train), len(valid)) == (1, 1)


def test_one_frame_is_not_enough():
    with pytest.raises(ValueError, match=r'at least 2 labelled frames with role `train`.*got 1 among 4'):
        split(Configurations.concatenate([_frames(1), _frames(3, 'test')]), TrainingSettings(seeds=(0,)))


def test_reference_energies_follow_the_setting():
    frames = _frames(3)
    assert reference_energies(frames, TrainingSettings(seeds=(0,), e0s='least_squares')) == pytest.approx({29: -1.0})
    with pytest.raises(ValueError, match='no labelled isolated atom'):
        reference_energies(frames, TrainingSettings(seeds=(0,)))
