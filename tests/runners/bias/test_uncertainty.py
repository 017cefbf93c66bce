from __future__ import annotations

import copy

import numpy as np
import pytest

from aiida_mlipal.runners.bias.uncertainty import UncertaintyBias
from aiida_mlipal.runners.committee import evaluate
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.last_layer import ATTRIBUTE, widths
from aiida_mlipal.runners.motion.moving import Langevin
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.plan_uncertainty import UncertaintyPlan
from tests.runners.bias.frames import frames, numerical_gradient, replica


@pytest.fixture(scope='module')
def one_model(committee):
    """One member, whose last layer tells its uncertainty by three made-up readouts."""
    model = copy.deepcopy(committee[0])
    sizes = widths(model)
    rows = 0.02 * np.random.default_rng(1).normal(size=(3, sum(sizes)))
    setattr(model, ATTRIBUTE, {'widths': sizes, 'energy': rows, 'forces': rows})
    return model


@pytest.fixture(params=['committee', 'last layer'])
def models(request, committee, one_model):
    return committee if request.param == 'committee' else [one_model]


@pytest.mark.parametrize('form', ['linear', 'saturating'])
def test_measure_and_its_gradient(form, models):
    """The measure follows from the uncertainty of the energy that evaluations report; its gradient from the measure."""
    some = frames()[1::2]
    batch = Systems([replica(index, atoms) for index, atoms in enumerate(some)])
    bias = UncertaintyBias(MaceForces(models), UncertaintyPlan(form=form, scale=0.05))
    energies, forces, measure, gradient = bias.measure(batch)
    reported = evaluate(Configurations.from_atoms(some), models, batch_atoms=64)
    spread = reported.energy_std
    expected = spread if form == 'linear' else 1 - np.exp(-(spread**2) / (reported.n_atoms * 0.05**2))
    np.testing.assert_allclose(measure, expected, rtol=1e-6)
    np.testing.assert_allclose(energies, reported.energy, atol=1e-9)
    np.testing.assert_allclose(forces, reported.forces, atol=1e-9)
    start = batch.positions.clone()

    def total(positions):
        batch.positions = positions
        return bias.measure(batch)[2].sum()

    numerical = numerical_gradient(total, start)
    assert abs(numerical).max() > 1e-3
    np.testing.assert_allclose(gradient, numerical, atol=2e-6 * max(1, abs(numerical).max()))


def ratios(batch, bias, physical) -> np.ndarray:
    """Return the root mean square of the bias force over that of the physical force, by replica."""
    own = physical(batch).forces if len(bias._mace.models) == 1 else bias.measure(batch)[1]
    squares = [batch.per_system((x**2).sum(dim=1), 'sum') for x in (batch.forces - own, own)]
    return np.sqrt((squares[0] / squares[1]).numpy())


def test_strength_adapts_and_is_bounded(models):
    """Averages meet the ratio that was asked for; never a step beyond the bound. The bias begins after a stride."""
    forces = MaceForces(models)
    plan = UncertaintyPlan(strength=0.2, max_strength=0.25, memory=4)
    bias = UncertaintyBias(forces, plan)
    batch = Langevin(
        [replica(index, atoms) for index, atoms in enumerate(frames())],
        bias, time_step=2.0, friction=0.02, key=[1, 0],
    )  # fmt: skip
    assert ratios(batch, bias, forces).max() == 0
    seen = []
    for _ in range(8):
        batch.start_block(5)
        for _ in range(5):
            batch.step()
            batch.steps = batch.steps + 1
            seen.append(ratios(batch, bias, forces))
        bias.adapt(batch)
        seen.append(ratios(batch, bias, forces))
    assert np.max(seen) <= 0.25 * (1 + 1e-9)
    assert np.max(seen) > 0.2  # the bound was needed or the ratio passed
    assert np.mean(seen[6:]) == pytest.approx(0.2, rel=0.2)


def test_model_without_uncertainty_is_refused(committee):
    with pytest.raises(ValueError, match=r'plan `uncertainty_bias` needs an uncertainty.*llpr'):
        UncertaintyBias(MaceForces(committee[:1]), UncertaintyPlan())
