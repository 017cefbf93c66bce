"""The comparison of two arms, against errors whose learning curves are known."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlipal.calculations.functions.control import common_test_set, compare_arms, control_selection
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.configurations import Configurations
from tests.science.builders import evaluation_of, silicon

LEVEL = {'code': 'none'}
SIZES = (10, 20, 30, 40)
LABELS = {'energy': -1.0, 'forces': [0.0, 0.0, 0.0], 'status': 'labelled'}


def dataset(n_frames: int, n_stream: int = 0, seed: int = 0) -> ConfigurationsData:
    """Return frames, the last ones of the random stream, in three trajectories."""
    role = ['train'] * (n_frames - n_stream) + ['test'] * n_stream
    trajectory = [f't{index % 3}' for index in range(n_frames)]
    frames = Configurations.from_atoms(silicon(n_frames, seed=seed), role=role, trajectory=trajectory, **LABELS)
    return ConfigurationsData(frames, level_of_theory=LEVEL).store()


def evaluations(test: ConfigurationsData, saved: float) -> list[EvaluationData]:
    """Return predictions whose RMSE falls with the square root of the labels, from a start that both arms share."""
    frames = test.configurations
    found = []
    for size in SIZES:
        sign = np.where(np.arange(3 * len(frames.numbers)) % 2, 1.0, -1.0).reshape(-1, 3)
        said = evaluation_of(frames, np.zeros((len(frames), 1)), forces=(saved * size) ** -0.5 * sign)
        found.append(EvaluationData(said, 'a' * 64).store())
    return found


@pytest.mark.parametrize('saved', [1.0, 1.6, 0.7])
def test_known_saving(saved, aiida_profile):
    """A campaign that needs fewer labels is said to save, one that needs more to lose, an equal one neither."""
    test = dataset(6, n_stream=6, seed=9)
    nodes = {}
    for arm, factor in (('campaign', saved), ('control', 1.0)):
        for index, (size, evaluation) in enumerate(zip(SIZES, evaluations(test, factor), strict=True)):
            nodes[f'{arm}_iteration_{index:02d}'] = evaluation
            nodes[f'{arm}_iteration_{index:02d}_dataset'] = dataset(size, seed=3)
    found = compare_arms(test, orm.Int(1), **nodes).get_dict()
    assert found['saving']['ratio'] == pytest.approx(saved, rel=1e-6)
    assert [point['n_labels'] for point in found['arms']['control']] == list(SIZES)
    assert found['arms']['control'][0]['force_rmse'] == pytest.approx(SIZES[0] ** -0.5)
    assert (found['n_frames'], found['n_trajectories']) == (6, 3)
    words = {1.0: 'neither a saving nor a loss', 1.6: 'a saving of 38%', 0.7: 'a loss: 43% more labels'}
    assert words[saved] in found['sentence']


def test_an_initial_dataset_is_not_counted(aiida_profile):
    """What was paid before the campaign is not what it needed."""
    test, initial = dataset(6, n_stream=6, seed=9), dataset(10, seed=3)
    nodes = {}
    for arm in ('campaign', 'control'):
        for index, evaluation in enumerate(evaluations(test, 1.0)[1:3]):
            frames = Configurations.concatenate([initial.configurations, dataset(5 + index, seed=7).configurations])
            nodes[f'{arm}_iteration_{index:02d}'] = evaluation
            nodes[f'{arm}_iteration_{index:02d}_dataset'] = ConfigurationsData(frames, level_of_theory=LEVEL).store()
    found = compare_arms(test, orm.Int(1), initial, **nodes).get_dict()
    assert [point['n_labels'] for point in found['arms']['campaign']] == [5, 6]


def test_common_frames_are_unseen(aiida_profile):
    """A random frame of one arm that the other trained on judges neither; one that both have counts once."""
    first = dataset(8, n_stream=4, seed=1).configurations
    learned = first.take([4]).with_columns(role=['train'])
    other = Configurations.concatenate([learned, first.take([5]), dataset(3, n_stream=3, seed=2).configurations])
    second = ConfigurationsData(other, level_of_theory=LEVEL).store()
    found = common_test_set(ConfigurationsData(first, level_of_theory=LEVEL).store(), second).configurations
    expected = {*first.frame_id[5:].tolist(), *other.frame_id[2:].tolist()}
    assert sorted(found.frame_id.tolist()) == sorted(expected)
    with pytest.raises(ValueError, match='no labelled random frame'):
        common_test_set(dataset(3), dataset(3))


def test_control_selection(aiida_profile):
    """All but the method stays."""
    found = control_selection(orm.Dict({'method': 'max_det', 'n_labels': 9}), orm.Str('random'))
    assert found.get_dict() == {'method': 'random', 'n_labels': 9}
