"""cuEquivariance is switched on only where it proves right: real models, and converters that lie."""

from __future__ import annotations

import importlib.util
import json
import math
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest

from aiida_mlipal.runners import cueq
from aiida_mlipal.runners.committee import evaluate, load_models
from aiida_mlipal.science.configurations import Configurations
from tests.committee import copper, trained_members
from tests.runners.training import start

pytestmark = pytest.mark.codes


@pytest.fixture
def models(compute_python):
    return load_models(trained_members(compute_python), device='cpu', dtype='float64')


@pytest.fixture
def installed(monkeypatch):
    """Pretend that the package is there."""
    monkeypatch.setattr(cueq, 'find_spec', lambda name: object())


def _frames():
    return [copper(seed) for seed in range(5)]


def _shifted(model, by: float):
    """Return a model whose energies and forces are off."""
    wrong = deepcopy(model)
    wrong.scale_shift.scale *= 1 + by
    return wrong


def _value(energy: float, force: float):
    return np.array([energy]), np.full((4, 3), force)


@pytest.mark.parametrize(
    ('dtype', 'energy', 'force', 'enabled'),
    [
        ('float64', 0, 0, True),
        ('float64', 1e-9, 1e-8, True),
        ('float64', 1e-7, 0, False),
        ('float64', 0, 1e-6, False),
        ('float32', 1e-5, 1e-4, True),
        ('float32', 1e-3, 0, False),
        ('float32', 0, 1e-2, False),
        ('float32', math.nan, 0, False),
        ('float32', 0, math.nan, False),
    ],
)
def test_limits(dtype, energy, force, enabled):
    """The worst of all frames counts, and what is not a number is never small."""
    plain = [_value(-3.0, 1.0), _value(-3.0, 0.5)]
    found = cueq.compare(plain, [_value(-3.0 + energy, 1.0), _value(-3.0, 0.5 + force)], dtype)
    assert found['enabled'] is enabled
    assert bool(found['reason']) is not enabled


def test_large_forces_may_differ_in_proportion():
    assert cueq.compare([_value(0, 50)], [_value(0, 50.01)], 'float32')['enabled']
    assert not cueq.compare([_value(0, 50)], [_value(0, 50.1)], 'float32')['enabled']


@pytest.mark.skipif(importlib.util.find_spec(cueq.PACKAGE) is not None, reason='the package is installed')
def test_without_the_package_the_plain_models_go_on(models):
    accelerated, found = cueq.accelerate(models, _frames())
    assert accelerated == models
    assert found == {'enabled': False, 'reason': found['reason']}
    assert 'cuequivariance_torch is missing: `pip install' in found['reason']


@pytest.mark.skipif(importlib.util.find_spec(cueq.PACKAGE) is None, reason='cuequivariance-torch is not installed')
def test_real_kernels_agree(models):
    accelerated, found = cueq.accelerate(models, _frames())
    assert found['enabled'], found
    assert accelerated[0] is not models[0]
    frames = Configurations.from_atoms(_frames())
    plain, fast = (evaluate(frames, members, batch_atoms=64) for members in (models, accelerated))
    np.testing.assert_allclose(fast.forces, plain.forces, atol=1e-8)
    np.testing.assert_allclose(fast.descriptors, plain.descriptors, atol=1e-8)


def test_kernels_that_agree_are_used(models, installed, monkeypatch):
    monkeypatch.setattr(cueq, '_convert', deepcopy)
    accelerated, found = cueq.accelerate(models, _frames())
    assert all(fast is not plain for fast, plain in zip(accelerated, models, strict=True))
    assert found == {'enabled': True, 'reason': '', 'energy_difference': 0.0, 'force_difference': 0.0}


def test_one_wrong_member_keeps_all_plain(models, installed, monkeypatch):
    monkeypatch.setattr(
        cueq, '_convert', lambda model: _shifted(model, 0.01) if model is models[1] else deepcopy(model)
    )
    accelerated, found = cueq.accelerate(models, _frames())
    assert accelerated == models
    assert not found['enabled']
    assert found['force_difference'] > 1e-5
    assert found['reason'].startswith('energies differ by')


def test_kernels_that_break_are_not_used(models, installed, monkeypatch):
    def convert(model):
        raise RuntimeError('no kernel image is available for execution on the device\nand so on')

    monkeypatch.setattr(cueq, '_convert', convert)
    accelerated, found = cueq.accelerate(models, _frames())
    assert accelerated == models
    assert found == _off('RuntimeError: no kernel image is available for execution on the device')


def _off(reason: str) -> dict:
    return {'enabled': False, 'reason': reason}


def test_training_changes_only_to_what_agrees(models, installed):
    """MACE converts before the training and back after it; neither may happen when the comparison failed."""
    for by, enabled in ((0.0, True), (0.01, False)):
        run_train = SimpleNamespace(
            run_e3nn_to_cueq=lambda model, device, by=by: _shifted(model, by),
            run_cueq_to_e3nn=lambda model, device: 'converted back',
        )
        record = cueq.guard_training(run_train, _frames())
        assert not record['enabled']
        changed = run_train.run_e3nn_to_cueq(models[0], device='cpu')
        assert (changed is not models[0]) is enabled
        assert record['enabled'] is enabled
        back = run_train.run_cueq_to_e3nn(changed, device='cpu')
        assert (back == 'converted back') is enabled


@pytest.mark.skipif(importlib.util.find_spec(cueq.PACKAGE) is not None, reason='the package is installed')
@pytest.mark.parametrize(
    ('runner', 'settings', 'frames'),
    [
        ('evaluate', {}, 'configurations.npz'),
        ('explore', {'seed': 1, 'temperatures': [300], 'n_steps': 10, 'dtype': 'float64'}, 'starts.npz'),
        ('label', {'calculator': 'mace', 'parameters': {'enable_cueq': True}}, 'configurations.npz'),
    ],
)
def test_jobs_record_what_they_found(compute_python, tmp_path, runner, settings, frames):
    """Whoever asks for it without the package gets the plain path, and a result that says so."""
    from importlib import import_module

    for path in trained_members(compute_python):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Configurations.from_atoms([copper(1), copper(2)]).save(tmp_path / frames)
    flag = {} if runner == 'label' else {'enable_cueq': True}
    results = import_module(f'aiida_mlipal.runners.{runner}').run({**settings, **flag}, tmp_path)['results']
    assert not results['cueq']['enabled']
    assert 'is missing' in results['cueq']['reason']
    assert json.dumps(results['cueq'])


def test_a_calculator_is_compared_too(installed, compute_python):
    from mace.calculators import MACECalculator

    def make(by, enable_cueq):
        calculator = MACECalculator(model_paths=[str(trained_members(compute_python)[0])], default_dtype='float64')
        if enable_cueq:
            calculator.models[0].scale_shift.scale *= 1 + by
        return calculator

    for by, enabled in ((0.0, True), (0.01, False)):
        _, found = cueq.accelerate_calculator(lambda enable_cueq, by=by: make(by, enable_cueq), _frames())
        assert found['enabled'] is enabled, found


def test_a_training_says_what_it_found(tmp_path, compute_python):
    """Without the package the training is the plain one, to the last bit."""
    folders = {'plain': tmp_path / 'plain', 'asked': tmp_path / 'asked'}
    jobs = [start(folder, seeds=[1], enable_cueq=name == 'asked') for name, folder in folders.items()]
    assert [job.wait(400) for job in jobs] == [0, 0]
    plain, asked = (
        json.loads((folder / 'result.json').read_text())['members']['member_00'] for folder in folders.values()
    )
    assert 'cueq' not in plain
    if importlib.util.find_spec(cueq.PACKAGE) is None:
        assert asked['cueq'] == _off(asked['cueq']['reason'])
        assert asked['errors'] == plain['errors']
    else:
        assert asked['cueq']['enabled'], asked['cueq']
        assert asked['errors']['valid']['force_rmse'] == pytest.approx(plain['errors']['valid']['force_rmse'], rel=0.2)
