"""A training that goes on from an earlier model, with real MACE."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from ase.io import read

from aiida_mlipal.science.training_log import read_history
from aiida_mlipal.science.warm_start import save_copies
from tests.runners.training import copper, start

pytestmark = pytest.mark.codes


def _member(folder):
    return json.loads((folder / 'result.json').read_text())['members']['member_00']


def _run(folder, model=None, copies=None, **settings):
    folder.mkdir()
    if model is not None:
        shutil.copyfile(model, folder / 'start_7.model')
    if copies is not None:
        frames = copper()
        save_copies(frames.frame_id, np.array([*copies, 1]), folder / 'copies.npz')
    assert start(folder, seeds=[7], **settings).wait(400) == 0, (folder / 'runner.log').read_text()
    return _member(folder)


@pytest.fixture(scope='module')
def earlier(tmp_path_factory, compute_python):
    folder = tmp_path_factory.mktemp('warm') / 'earlier'
    member = _run(folder, ema_decay=0.9)
    assert member['status'] == 'ok', member
    return folder


@pytest.fixture(scope='module')
def later(earlier):
    """Train on fewer frames, so that scale, shift and number of neighbours of the data are others."""
    frames = copper()
    trained = {atoms.positions.tobytes() for atoms in read(earlier / 'train.xyz', ':')}
    known = [atoms.positions.round(8).tobytes() in trained for atoms in frames.to_atoms()[:-1]]
    copies = np.where(np.cumsum(known) <= 2, 0, 2)
    member = _run(earlier.parent / 'later', earlier / 'member_00.model', copies.tolist(), max_num_epochs=1, lr=1e-3)
    assert member['status'] == 'ok', member
    return earlier.parent / 'later', copies


def _evaluations(folder):
    (path,) = folder.glob('member_00/results/*_train.txt')
    return [line for line in map(json.loads, path.read_text().splitlines()) if line['mode'] == 'eval']


def test_it_begins_with_what_the_earlier_model_says(earlier, later):
    """The errors on the validation frames before the first epoch are those of the earlier model."""
    folder, _ = later
    before = _evaluations(folder)[0]
    assert before['epoch'] is None
    errors = _member(earlier)['errors']['valid']
    assert before['rmse_f'] == pytest.approx(errors['force_rmse'], rel=1e-4)
    assert before['rmse_e_per_atom'] == pytest.approx(errors['energy_rmse_per_atom'], rel=1e-3, abs=1e-6)


def test_it_keeps_what_is_not_trained(earlier, later):
    models = [torch.load(folder / 'member_00.model', weights_only=False) for folder in (earlier, later[0])]
    states = [model.state_dict() for model in models]
    for name in ('scale_shift.scale', 'scale_shift.shift', 'atomic_energies_fn.atomic_energies'):
        assert torch.equal(states[0][name], states[1][name])
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0]), 'it has learned'
    numbers = [model.interactions[0].avg_num_neighbors for model in models]
    assert numbers[0] == numbers[1]


def test_frames_come_as_often_as_they_should(later):
    folder, copies = later
    written = read(folder / 'train.xyz', ':')
    valid = read(folder / 'valid.xyz', ':')
    wanted = [
        count
        for atoms, count in zip(copper().to_atoms()[:-1], copies.tolist(), strict=True)
        if not any(np.allclose(atoms.positions, other.positions, atol=1e-6) for other in valid)
    ]
    assert len(written) == sum(wanted)
    result = json.loads((folder / 'result.json').read_text())
    assert result['n_train'] == len(wanted)


def test_the_same_again_gives_the_same_model(earlier, later):
    folder, copies = later
    again = earlier.parent / 'again'
    _run(again, earlier / 'member_00.model', copies.tolist(), max_num_epochs=1, lr=1e-3)
    states = [torch.load(path / 'member_00.model', weights_only=False).state_dict() for path in (folder, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'num_channels': 6}, r'no weights of the right shape for \d+ of \d+ parts'),
        ({'e0s': {'Cu': 1.25}}, 'energies of the atoms .* instead of '),
        ({'r_max': 4.0}, 'cutoff 4.5 instead of 4.0'),
    ],
)
def test_a_model_of_another_kind_is_refused(earlier, tmp_path, settings, message):
    member = _run(tmp_path / 'other', earlier / 'member_00.model', **settings)
    assert (member['status'], member['kind']) == ('failed', 'start_refused')
    assert re.search(message, member['reason']), member['reason']


def test_the_loss_of_mace_ignores_the_weight_of_a_frame():
    """For which frames are repeated; if this fails, MACE has mended it, and a weight would do."""
    from mace.modules.loss import UniversalLoss, WeightedHuberEnergyForcesStressLoss
    from mace.tools.torch_geometric import Batch, Data

    def batch(weight):
        frame = {
            'weight': torch.tensor(weight), 'energy': torch.tensor(1.0), 'forces': torch.ones(2, 3),
            'stress': torch.ones(1, 3, 3), 'positions': torch.zeros(2, 3),
            **{f'{name}_weight': torch.tensor(1.0) for name in ('energy', 'forces', 'stress')},
        }  # fmt: skip
        return Batch.from_data_list([Data(num_nodes=2, **frame)])

    predicted = {'energy': torch.zeros(1), 'forces': torch.zeros(2, 3), 'stress': torch.zeros(1, 3, 3)}
    for loss in (UniversalLoss(), WeightedHuberEnergyForcesStressLoss()):
        assert loss(batch(1.0), predicted) == loss(batch(5.0), predicted)


def test_history_is_that_of_the_training_alone(later):
    (path,) = later[0].glob('member_00/results/*_train.txt')
    assert read_history(path.read_text().splitlines())['Default']['epoch'] == [0]
