import numpy as np
import pytest
from ase import Atoms

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_data import bootstrap, head_data, reference_energies, split
from aiida_mlipal.science.training_settings import TrainingSettings


def _frames(n, role='train', status='labelled'):
    frames = [Atoms('Cu', positions=[[0.1 * i, 0.0, 1.0 if role == 'train' else 0.0]]) for i in range(n)]
    return Configurations.from_atoms(frames, energy=np.full(n, -1.0), forces=np.zeros((n, 3)), role=role, status=status)


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


def test_a_bootstrap_is_drawn_with_replacement_by_the_seed_of_the_member():
    frames = _frames(200)
    drawn = {seed: bootstrap(frames, seed).frame_id.tolist() for seed in range(40)}
    assert all(len(ids) == 200 and set(ids) <= set(frames.frame_id) for ids in drawn.values())
    # A frame is in a draw with the probability 1 - (1 - 1/n)^n; the mean over 40 draws has a spread of 0.0035.
    share = np.mean([len(set(ids)) / 200 for ids in drawn.values()])
    assert share == pytest.approx(1 - (1 - 1 / 200) ** 200, abs=0.012)
    assert len({tuple(ids) for ids in drawn.values()}) == 40
    assert bootstrap(frames, 3).frame_id.tolist() == drawn[3]
    backwards = bootstrap(frames.take(np.arange(200)[::-1]), 3).frame_id
    assert sorted(backwards) == sorted(drawn[3])


def test_a_bootstrap_has_all_elements():
    """Three times in eight a draw misses the only frame of an element."""
    silver = Configurations.from_atoms([Atoms('Ag')], energy=[-1.0], forces=np.zeros((1, 3)), status='labelled')
    frames = Configurations.concatenate([_frames(30), silver])
    draws = [bootstrap(frames, seed) for seed in range(20)]
    assert all(set(draw.numbers) == {29, 47} for draw in draws)
    assert {len(draw) for draw in draws} == {31, 32}


@pytest.mark.parametrize('fraction', [0.01, 0.99])
def test_there_is_always_a_frame_for_either(fraction):
    train, valid = split(_frames(2), TrainingSettings(seeds=(0,), valid_fraction=fraction))
    assert (len(train), len(valid)) == (1, 1)


def test_one_frame_is_not_enough():
    with pytest.raises(ValueError, match=r'at least 2 labelled frames with role `train`.*got 1 among 4'):
        split(Configurations.concatenate([_frames(1), _frames(3, 'test')]), TrainingSettings(seeds=(0,)))


@pytest.mark.parametrize(
    ('labelled', 'failed', 'message'),
    [
        ('train', 'validation', 'have the role `train`, and the 2 with the role `validation` have no label: give some'),
        ('validation', 'train', 'have the role `validation`, and the 2 with the role `train` have no label: give some'),
        ('validation', 'validation', 'have the role `validation`, and none has the role `train`: give some'),
    ],
)
def test_nothing_to_validate_with_or_to_train_on(labelled, failed, message):
    frames = Configurations.concatenate([_frames(6), _frames(2, status='rejected')])
    frames = frames.with_columns(role=[labelled] * 6 + [failed] * 2)
    with pytest.raises(ValueError, match=f'all 6 labelled frames of the dataset {message}'):
        split(frames, TrainingSettings(seeds=(0,)))


def test_reference_energies_follow_the_setting():
    frames = _frames(3)
    assert reference_energies(frames, TrainingSettings(seeds=(0,), e0s='least_squares')) == pytest.approx({29: -1.0})
    given = TrainingSettings(seeds=(0,), e0s={'Cu': -0.5, 'Ag': -0.7})
    assert reference_energies(frames, given) == {29: -0.5}


def test_an_element_without_an_energy():
    frames = _frames(3)
    with pytest.raises(ValueError, match=r"no labelled isolated atom for \['Cu'\].*`e0s: \{Cu: ENERGY\}`"):
        reference_energies(frames, TrainingSettings(seeds=(0,)))
    with pytest.raises(ValueError, match=r"`e0s` has no energy for \['Cu'\].*add `Cu: ENERGY`"):
        reference_energies(frames, TrainingSettings(seeds=(0,), e0s={'Ag': -0.7}))


def test_frames_without_forces_are_not_trained_on():
    frames = _frames(6)
    forces = frames.forces.copy()
    forces[[2, 4], 1] = np.nan
    frames = frames.with_columns(forces=forces)
    with pytest.raises(
        ValueError, match=rf'2 of 6 frames \({frames.frame_id[2]} first\) have no forces.*label them anew'
    ):
        split(frames, TrainingSettings(seeds=(0,)))


SETTINGS = TrainingSettings(seeds=(0,))


def _level(n, energy=-1.0, symbol='Cu'):
    frames = Configurations.concatenate([_frames(n), _frames(1, 'isolated_atom')])
    numbers = np.full(len(frames.numbers), Atoms(symbol).numbers[0])
    return frames.with_columns(energy=np.full(n + 1, energy), numbers=numbers)


def test_each_head_has_its_frames_and_atoms_and_the_main_one_is_last():
    heads = head_data(_level(10), {'pbe': _level(20, -2.0), 'cheap': _level(10, -3.0)}, SETTINGS)
    assert list(heads) == ['cheap', 'pbe', 'Default']
    assert {name: head.e0s for name, head in heads.items()} == {
        'cheap': {29: -3.0}, 'pbe': {29: -2.0}, 'Default': {29: -1.0},
    }  # fmt: skip
    assert set(heads['pbe'].train.energy) == {-2.0}
    unseen = set(heads['Default'].valid.frame_id)
    assert len(unseen) == 4
    for name in ('cheap', 'pbe'):
        assert not unseen & set(heads[name].train.frame_id)
    assert head_data(_level(10), {}, SETTINGS).keys() == {'Default'}


@pytest.mark.parametrize(
    ('others', 'message'),
    [
        ({'Default': _level(9)}, '`Default` cannot be the name of a head'),
        ({'pt_head': _level(9)}, '`pt_head` cannot be the name of a head'),
        ({'a__b': _level(9)}, 'single underscores'),
        ({'2nd': _level(9)}, '`2nd` cannot be the name of a head'),
        ({'pbe': _frames(9)}, r"`other_datasets\.pbe`: no labelled isolated atom for \['Cu'\]"),
        ({'pbe': _level(1)}, r'`other_datasets\.pbe`: a training needs at least 2'),
        ({'pbe': _level(9, symbol='Ag')}, 'holds Ag, of which the main dataset has no frames'),
    ],
)
def test_heads_that_cannot_be_trained(others, message):
    with pytest.raises(ValueError, match=message):
        head_data(_level(10), others, SETTINGS)
