"""A model that learned from two levels of theory: its heads differ, and everything downstream asks the main one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aiida_mlipal.runners.committee import evaluate, load_models
from aiida_mlipal.runners.explore import explore
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import replicas_at
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.training_log import read_history
from tests.runners.training import copper, lennard_jones, start

pytestmark = pytest.mark.codes

HEADS = ['lj', 'Default']


@pytest.fixture(scope='module')
def folder(tmp_path_factory, compute_python):
    """Return the folder of a training on EMT labels, with Lennard-Jones labels of more frames for a second head."""
    folder = tmp_path_factory.mktemp('heads') / 'training'
    process = start(folder, {'lj': lennard_jones(12)}, seeds=[1], max_num_epochs=25, ema_decay=0.9)
    assert process.wait(400) == 0, (folder / 'runner.log').read_text()
    return folder


@pytest.fixture(scope='module')
def result(folder):
    return json.loads((folder / 'result.json').read_text())


@pytest.fixture(scope='module')
def model(folder):
    (model,) = load_models([folder / 'member_00.model'], device='cpu', dtype='float64')
    assert model.heads == HEADS
    return model


@pytest.fixture
def unseen():
    """Return frames that no head was trained on, at both levels."""
    return tuple(level(16).take(np.arange(12, 16)) for level in (copper, lennard_jones))


def _rmse(a, b) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_each_head_has_its_own_atoms_and_errors(result, folder):
    member = result['members']['member_00']
    assert (member['status'], member['elements']) == ('ok', ['Cu'])
    assert set(member['head_errors']) == {'lj'}
    assert result['e0s'] == {'Cu': pytest.approx(copper().energy[-1])}
    assert result['other_heads']['lj']['e0s'] == {'Cu': pytest.approx(lennard_jones().energy[-1])}
    # Of the 8 training frames of the second head, those that validate the main head are left out.
    assert result['other_heads']['lj']['n_train'] < 8
    (log,) = folder.glob('member_00/results/*_train.txt')
    history = read_history(log.read_text().splitlines())
    assert set(history) == set(HEADS)
    main = history['Default']
    assert member['best_epoch'] == main['epoch'][main['loss'].index(min(main['loss']))]  # judged by the main head
    for head, errors in (('Default', member['errors']), ('lj', member['head_errors']['lj'])):
        row = history[head]['epoch'].index(member['best_epoch'])
        assert errors['valid']['force_rmse'] == pytest.approx(history[head]['force_rmse'][row], rel=1e-3)


def test_the_committee_answers_with_the_main_head(model, unseen):
    emt, lj = unseen
    evaluation = evaluate(emt, [model], batch_atoms=7)
    assert _rmse(evaluation.energy, emt.energy) < 0.2 * _rmse(evaluation.energy, lj.energy)
    assert _rmse(evaluation.forces, emt.forces) < 0.7 * _rmse(evaluation.forces, lj.forces)


def test_agrees_with_the_head_alone(model, folder, unseen):
    """MACE's ASE calculator, asked for either head, and the main head cut out of the model by MACE itself."""
    import torch
    from mace.calculators import MACECalculator
    from mace.tools.scripts_utils import remove_pt_head

    raw = torch.load(folder / 'member_00.model', weights_only=False).double()
    evaluation = evaluate(unseen[0], [model], batch_atoms=64)
    energies = {}
    for head in (None, *HEADS):
        calculator = MACECalculator(models=[raw], device='cpu', default_dtype='float64', head=head)
        energies[head] = [calculator.get_potential_energy(atoms) for atoms in unseen[0].to_atoms()]
    np.testing.assert_allclose(evaluation.energy, energies['Default'], atol=1e-8)
    np.testing.assert_array_equal(energies[None], energies['Default'])  # the name makes it MACE's default
    assert np.abs(evaluation.energy - energies['lj']).min() > 1
    torch.set_default_dtype(torch.float64)
    try:
        alone = remove_pt_head(raw, 'Default')
    finally:
        torch.set_default_dtype(torch.float32)
    again = evaluate(unseen[0], [alone], batch_atoms=64)
    np.testing.assert_allclose(evaluation.energy, again.energy, atol=1e-8)
    np.testing.assert_allclose(evaluation.forces, again.forces, atol=1e-8)


@pytest.mark.parametrize('pbc', [(True, True, True), (True, True, False)])
def test_dynamics_use_the_main_head(model, unseen, pbc):
    frames = unseen[0]
    frames = frames.with_columns(pbc=np.tile(pbc, (len(frames), 1)))
    systems = Systems(replicas_at(frames, 0, [300.0] * len(frames)))
    energies, forces, _ = MaceForces([model])(systems)
    evaluation = evaluate(frames, [model], batch_atoms=64)
    np.testing.assert_allclose(energies.numpy(), evaluation.energy, atol=1e-8)
    np.testing.assert_allclose(forces.numpy(), evaluation.forces, atol=1e-8)


def test_exploration_runs(model, unseen):
    settings = ExplorationSettings(
        seed=1, iteration=0, n_stream=1, temperatures=(300.0,), n_replicas_per_temperature=1, n_steps=20, stride=10
    )
    pool, evaluation, _ = explore(unseen[0].take([0]), [model], settings)
    assert len(pool) == len(evaluation) > 0
    assert np.abs(evaluation.energy - evaluate(pool, [model], batch_atoms=64).energy).max() < 1e-8


def test_several_heads_without_a_main_one_are_refused(folder, tmp_path):
    import torch

    model = torch.load(folder / 'member_00.model', weights_only=False)
    model.heads = ['pbe', 'lj']
    torch.save(model, tmp_path / 'member_00.model')
    with pytest.raises(ValueError, match=r'the heads pbe, lj and none is called `Default`.*mace_select_head'):
        load_models([tmp_path / 'member_00.model'], device='cpu', dtype='float64')
