"""Real trainings that start from a model: what they begin with, what they change, and what they keep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aiida_mlipal.runners.committee import evaluate, load_models
from aiida_mlipal.runners.explore import explore
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.runners.fine_tuning import PRETRAINING, SMALL, alloy, result, start

pytestmark = [pytest.mark.codes, pytest.mark.long]

#: Settings of all fine-tunings; what makes the architecture follows from the model.
TUNE = {'max_num_epochs': 12, 'batch_size': 4, 'lr': 0.003, 'ema_decay': 0.9}
KINDS = {
    'naive': {},
    'frozen': {'freeze': 'products', 'stage_two_share': 0.3},
    'lora': {'lora': True, 'lora_rank': 2},
    'replay': {},
}


@pytest.fixture(scope='module')
def root(tmp_path_factory, compute_python):
    """Folders by name: a foundation model on EMT, trainings at another level from it, and one from scratch."""
    root = tmp_path_factory.mktemp('fine_tuning')
    begin = start(root / 'foundation', alloy(40, 0), **PRETRAINING)
    assert begin.wait(600) == 0, (root / 'foundation' / 'runner.log').read_text()
    assert result(root / 'foundation')['members']['member_00']['status'] == 'ok'
    foundation, dataset = root / 'foundation' / 'member_00.model', alloy(12, 1, other=True)
    for name, settings in KINDS.items():
        replay = alloy(16, 0) if name == 'replay' else None
        process = start(root / name, dataset, foundation, replay, **TUNE, **settings)
        assert process.wait(600) == 0, (root / name / 'runner.log').read_text()
    scratch = start(root / 'scratch', dataset, **{**TUNE, **SMALL, 'max_num_epochs': 1})
    assert scratch.wait(600) == 0, (root / 'scratch' / 'runner.log').read_text()
    return root


def _state(folder: Path):
    import torch

    return torch.load(folder / 'member_00.model', weights_only=False).state_dict()


def _model(folder: Path):
    (model,) = load_models([folder / 'member_00.model'], device='cpu', dtype='float64')
    return model


def _rmse(a, b) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def _initial(folder: Path, head: str = 'Default') -> float:
    """Return the force error (eV/Å) on the validation frames before the first step."""
    (log,) = folder.glob('member_00/results/*_train.txt')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return next(row['rmse_f'] for row in rows if row['mode'] == 'eval' and row['epoch'] is None and row['head'] == head)


@pytest.mark.parametrize('name', ['foundation', *KINDS, 'scratch'])
def test_nothing_failed_and_nothing_was_downloaded(root, name):
    """The trainings ran where every connection raises an error."""
    member = result(root / name)['members']['member_00']
    assert member['status'] == 'ok', member
    log = (root / name / 'member_00' / 'train.log').read_text() + (root / name / 'runner.log').read_text()
    assert 'ownload' not in log
    assert 'a connection was tried' not in log


@pytest.mark.parametrize('name', KINDS)
def test_starts_better_than_from_scratch(root, name):
    assert _initial(root / name) < 0.6 * _initial(root / 'scratch')
    assert result(root / name)['members']['member_00']['errors']['valid']['force_rmse'] < _initial(root / name)


@pytest.mark.parametrize('name', KINDS)
def test_the_architecture_is_that_of_the_model(root, name):
    architecture = result(root / name)['members']['member_00']['architecture']
    assert architecture == result(root / 'foundation')['members']['member_00']['architecture']
    assert {key: architecture[key] for key in SMALL} == SMALL


@pytest.mark.parametrize('name', KINDS)
def test_atoms_have_the_energies_of_the_new_level(root, name):
    """MACE alone keeps those of the foundation model, if it has the same elements (see the next test)."""
    model, atoms = _model(root / name), alloy(1, 1, other=True).take([1, 2])
    wanted = dict(zip(atoms.numbers.tolist(), atoms.energy.tolist(), strict=True))
    index = list(model.heads).index('Default')
    energies = np.atleast_2d(model.atomic_energies_fn.atomic_energies.numpy())[index]
    numbers = [int(number) for number in model.atomic_numbers]
    assert dict(zip(numbers, energies.tolist(), strict=True)) == pytest.approx(wanted, rel=1e-6)


def test_mace_still_forgets_the_energies_of_the_atoms(root, tmp_path, monkeypatch):
    """A fault of MACE 0.3.16: when this fails, `begin_at_new_level` has one thing less to do."""
    import torch
    from mace.cli import run_train

    from aiida_mlipal.runners import mace_cli
    from aiida_mlipal.runners.foundation import read_foundation
    from aiida_mlipal.science.training_settings import TrainingSettings

    files = mace_cli.HeadFiles(
        train_file=root / 'naive' / 'train.xyz',
        valid_file=root / 'naive' / 'valid.xyz',
        n_train=8,
        e0s={13: 7.0, 29: 9.0},
    )
    settings = TrainingSettings(seeds=(1,), max_num_epochs=1, lr=1e-6, **SMALL)
    foundation = read_foundation(root / 'naive')
    line = mace_cli.arguments(settings, name='bare', seed=1, heads={'Default': files}, foundation=foundation)
    (tmp_path / 'bare').mkdir()
    monkeypatch.chdir(tmp_path / 'bare')
    run_train.run(mace_cli._parse(line))
    energies = torch.load('bare.model', weights_only=False).atomic_energies_fn.atomic_energies
    assert energies.flatten().tolist() == pytest.approx(list(foundation.e0s.values()))


def test_naive_fine_tuning_changes_everything(root):
    before, after = _state(root / 'foundation'), _state(root / 'naive')
    for part in ('node_embedding', 'interactions', 'products', 'readouts'):
        names = [name for name in after if name.startswith(part) and name.endswith('weight')]
        assert names
        assert any(not bool((before[name] == after[name]).all()) for name in names), part


def test_frozen_weights_stay_to_the_last_bit(root):
    """Also in a second stage, which gives all layers the same learning rate."""
    import torch

    before, after = _state(root / 'foundation'), _state(root / 'frozen')
    frozen = [name for name in after if name.startswith(('node_embedding', 'interactions', 'products'))]
    assert len(frozen) > 10
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    readouts = [name for name in after if name.startswith('readouts') and name.endswith('weight')]
    assert any(not torch.equal(before[name], after[name]) for name in readouts)


def test_lora_adds_matrices_of_low_rank(root):
    """The model has its old shape, and the weights of linear layers differ by a matrix of rank two."""
    import torch

    before, after = _state(root / 'foundation'), _state(root / 'lora')
    assert before.keys() == after.keys()
    changed = [name for name in after if not torch.equal(before[name], after[name]) and 'atomic_energies' not in name]
    assert any('linear_up' in name for name in changed)
    assert not any('skip_tp' in name or 'contractions' in name for name in changed)
    for name in changed:
        if 'linear_up' in name:
            values = torch.linalg.svdvals((after[name] - before[name]).reshape(8, 8).double())
            assert values[1] > 1e-6
            assert float(values[2:].max()) < 1e-5 * float(values[0])


def test_replay_remembers(root):
    """Frames of the old level that nobody trained on: the replay head still knows them, a naive model does not."""
    old = alloy(12, 5).take(np.arange(12))
    naive, replay, foundation = (_model(root / name) for name in ('naive', 'replay', 'foundation'))
    assert list(replay.heads) == ['pt_head', 'Default']
    forgotten = _rmse(evaluate(old, [naive], batch_atoms=64).forces, old.forces)
    known = _rmse(evaluate(old, [foundation], batch_atoms=64).forces, old.forces)
    kept = _rmse(_forces_of_head(root / 'replay', old, 'pt_head'), old.forces)
    assert kept < 0.8 * forgotten
    assert kept < 1.5 * known
    about = result(root / 'replay')
    assert about['n_not_replayed'] == 0
    assert about['other_heads']['pt_head']['e0s'] == pytest.approx(result(root / 'foundation')['e0s'])
    assert about['members']['member_00']['head_errors']['pt_head']['valid']['force_rmse'] < forgotten


def _forces_of_head(folder: Path, frames, head: str):
    from mace.calculators import MACECalculator

    calculator = MACECalculator(
        model_paths=folder / 'member_00.model', device='cpu', default_dtype='float64', head=head
    )
    return np.concatenate([calculator.get_forces(atoms) for atoms in frames.to_atoms()])


@pytest.mark.parametrize('name', KINDS)
def test_explores_like_any_other_model(root, name):
    """Through TorchSim, and evaluated as a committee is: with the main head, at the new level."""
    model, unseen = _model(root / name), alloy(8, 7, other=True).take(np.arange(8))
    assert _rmse(evaluate(unseen, [model], batch_atoms=64).energy / 4, unseen.energy / 4) < 0.15
    settings = ExplorationSettings(
        seed=1, iteration=0, n_stream=1, temperatures=(300.0,), n_replicas_per_temperature=1, n_steps=20, stride=10
    )
    pool, evaluation, _ = explore(unseen.take([0]), [model], settings)
    assert len(pool) == len(evaluation) > 0
    np.testing.assert_allclose(evaluation.energy, evaluate(pool, [model], batch_atoms=64).energy, atol=1e-8)


def test_one_head_of_several_and_fewer_elements(root, tmp_path):
    """From the main head of a model with two, to copper alone: it begins with what that head says of copper."""
    copper = alloy(10, 3, elements=('Cu',), other=True)
    replay = alloy(12, 0)
    process = start(
        tmp_path / 'copper',
        copper,
        root / 'replay' / 'member_00.model',
        replay,
        'Default',
        **{**TUNE, 'max_num_epochs': 2},
    )
    assert process.wait(600) == 0, (tmp_path / 'copper' / 'runner.log').read_text()
    about = result(tmp_path / 'copper')
    member = about['members']['member_00']
    assert member['status'] == 'ok', member
    assert (member['elements'], about['e0s']) == (['Cu'], {'Cu': pytest.approx(copper.energy[-1])})
    mixed = sum('Al' in atoms.get_chemical_symbols() for atoms in replay.take(np.arange(12)).to_atoms())
    assert about['n_not_replayed'] == mixed + 1  # and the isolated atom
    valid = copper.take(np.isin(copper.frame_id, about['valid_frame_ids']))
    wanted = _rmse(_forces_of_head(root / 'replay', valid, 'Default'), valid.forces)
    assert _initial(tmp_path / 'copper') == pytest.approx(wanted, rel=1e-3)


def test_an_interrupted_training_goes_on_with_lower_rates(root, tmp_path):
    """The state of frozen and adapted weights is taken up, also where only the weights of the best epoch are."""
    dataset, foundation = alloy(12, 1, other=True), root / 'foundation' / 'member_00.model'
    settings = {**TUNE, 'max_num_epochs': 5, 'lora': True}
    process = start(tmp_path / 'first', dataset, foundation, **settings)
    assert process.wait(600) == 0
    (tmp_path / 'second').mkdir()
    (tmp_path / 'first' / 'checkpoints').rename(tmp_path / 'second' / 'checkpoints')
    process = start(tmp_path / 'second', dataset, foundation, **{**settings, 'lr': 0.0003, 'max_num_epochs': 7})
    assert process.wait(600) == 0, (tmp_path / 'second' / 'runner.log').read_text()
    member = result(tmp_path / 'second')['members']['member_00']
    assert member['status'] == 'ok', member
    assert member['continued_from'] > 0
    assert _initial(tmp_path / 'second') < _initial(tmp_path / 'first')
