"""Real trainings of tiny models. They run at the same time, in processes of their own, as jobs do."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from aiida_mlipal.science.training_log import read_history
from tests.runners.training import copper, start

pytestmark = pytest.mark.codes


def _log(folder: Path, name: str) -> list[str]:
    (path,) = folder.glob(f'{name}/results/*_train.txt')
    return path.read_text().splitlines()


def _stop_after(folder: Path, name: str, epoch: int, stop: str) -> None:
    """Leave the file ``stop`` as soon as a member has finished ``epoch``."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for path in folder.glob(f'{name}/results/*_train.txt'):
            history = read_history(path.read_text().splitlines())
            if history and history['Default']['epoch'][-1] >= epoch:
                (folder / stop).touch()
                return
        time.sleep(0.1)
    raise AssertionError((folder / 'runner.log').read_text())


@pytest.fixture(scope='module')
def trainings(tmp_path_factory, compute_python):
    """Folders of finished trainings by name."""
    root = tmp_path_factory.mktemp('trainings')
    # The third member cannot write its results.
    (root / 'committee' / 'member_02').mkdir(parents=True)
    (root / 'committee' / 'member_02' / 'results').touch()
    processes = {
        'committee': start(root / 'committee', seeds=[1, 2, 3]),
        'stopped': start(root / 'stopped', seeds=[4, 5, 6], max_num_epochs=3000, max_parallel=1),
    }
    _stop_after(root / 'stopped', 'member_00', 3, 'member_00/STOP')
    assert processes['committee'].wait(400) == 0, (root / 'committee' / 'runner.log').read_text()
    processes['alone'] = start(root / 'alone', seeds=[2], uncertainty='none')
    processes['diverged'] = start(root / 'diverged', seeds=[1], lr=1e30)
    # The first member has ended, the second is under way, the third has not begun: end all of it.
    _stop_after(root / 'stopped', 'member_01', 1, 'STOP')
    for name, process in processes.items():
        assert process.wait(400) == 0, (root / name / 'runner.log').read_text()
    return root


def _result(folder: Path) -> dict:
    return json.loads((folder / 'result.json').read_text())


def test_members_are_trained(trainings):
    folder = trainings / 'committee'
    result = _result(folder)
    assert result['status'] == 'ok'
    assert result['n_train'] == 4
    assert len(result['valid_frame_ids']) == 4
    assert set(result['valid_frame_ids']) <= set(copper().frame_id)
    assert result['e0s'] == {'Cu': pytest.approx(copper().energy[-1])}
    assert result['software']['mace-torch'].startswith('0.3')
    for name, seed in (('member_00', 1), ('member_01', 2)):
        member = result['members'][name]
        assert (member['status'], member['seed'], member['stopped']) == ('ok', seed, False)
        assert (member['elements'], member['dtype'], member['r_max']) == (['Cu'], 'float32', 4.5)
        assert member['sha256'] == hashlib.sha256((folder / f'{name}.model').read_bytes()).hexdigest()
        assert read_history(_log(folder, name))['Default']['epoch'] == [0, 1, 2]


def test_errors_are_those_of_the_model_that_is_handed_over(trainings):
    """Our own evaluation of the model file agrees with what MACE logged for the best epoch."""
    for name, member in _result(trainings / 'committee')['members'].items():
        if member['status'] == 'ok':
            history = read_history(_log(trainings / 'committee', name))['Default']
            row = history['epoch'].index(member['best_epoch'])
            for quantity in ('force_rmse', 'energy_rmse_per_atom'):
                assert member['errors']['valid'][quantity] == pytest.approx(history[quantity][row], rel=1e-3)


def test_a_failed_member_leaves_the_others_alone(trainings):
    member = _result(trainings / 'committee')['members']['member_02']
    assert (member['status'], member['seed'], member['kind']) == ('failed', 3, 'exception')
    assert 'results' in member['reason']
    assert not (trainings / 'committee' / 'member_02.model').exists()
    assert 'Traceback' in (trainings / 'committee' / 'member_02' / 'train.log').read_text()


def test_the_same_seed_gives_the_same_model_to_the_last_bit(trainings):
    """Trained alone and without an uncertainty, or in a committee, a seed gives the same weights; another does not."""
    import torch

    def weights(path):
        return torch.load(path, weights_only=False).state_dict()

    alone = weights(trainings / 'alone' / 'member_00.model')
    again = weights(trainings / 'committee' / 'member_01.model')
    other = weights(trainings / 'committee' / 'member_00.model')
    assert 'uncertainty' not in _result(trainings / 'alone')['members']['member_00']
    assert alone.keys() == again.keys()
    assert all(torch.equal(alone[key], again[key]) for key in alone)
    assert not all(torch.equal(alone[key], other[key]) for key in alone)


def test_stop_ends_at_the_best_checkpoint(trainings):
    folder = trainings / 'stopped'
    for name in ('member_00', 'member_01'):
        member = _result(folder)['members'][name]
        history = read_history(_log(folder, name))['Default']
        assert (member['status'], member['stopped']) == ('ok', True)
        assert history['epoch'][-1] < 2999
        assert member['best_epoch'] == history['epoch'][history['loss'].index(min(history['loss']))]
        row = history['epoch'].index(member['best_epoch'])
        assert member['errors']['valid']['force_rmse'] == pytest.approx(history['force_rmse'][row], rel=1e-3)
    member = _result(folder)['members']['member_02']
    assert (member['status'], member['kind'], member['reason']) == ('failed', 'stopped', 'stopped before it began')


def test_a_loss_that_is_not_a_number_ends_the_training(trainings):
    member = _result(trainings / 'diverged')['members']['member_00']
    assert (member['status'], member['kind']) == ('failed', 'non_finite')
    assert 'the validation loss is nan after epoch' in member['reason']
