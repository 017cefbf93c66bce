from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.calibration import Calibration, Thresholds, calibrate
from aiida_mlipal.science.calibration.frames import compositions
from aiida_mlipal.science.configurations import Configurations

from ..builders import evaluation_of, silicon


def synthetic(alpha: float, n_members: int, seed: int, n_frames: int = 400):
    """A committee drawn about a mean, and truths drawn from the same law, ``alpha`` times wider."""
    rng = np.random.default_rng(seed)
    n_total = 2 * n_frames
    sigma = rng.uniform(0.05, 0.5, (n_total, 1, 1))
    members = sigma * rng.normal(size=(n_total, 3, n_members))
    truth = alpha * sigma[:, :, 0] * rng.normal(size=(n_total, 3))
    dataset = Configurations.from_atoms(
        silicon(n_frames, seed), role='calibration', status='labelled', energy=np.zeros(n_frames), forces=truth
    )
    spread = np.sqrt(members.var(axis=2, ddof=1).mean(axis=1))
    return dataset, evaluation_of(
        dataset, np.zeros((n_frames, 1)), forces=members.mean(axis=2), forces_std=spread, n_members=n_members
    )


def fit(dataset, evaluation, **kwargs) -> Calibration:
    result = calibrate(dataset, evaluation, **{'lower_factor': 1.5, 'upper_factor': 10, **kwargs})
    assert result is not None
    return result


@settings(deadline=None, max_examples=8)
@given(alpha=st.floats(0.8, 6), n_members=st.integers(4, 8), seed=st.integers(0, 1000))
def test_recovers_alpha(alpha, n_members, seed):
    result = fit(*synthetic(alpha, n_members, seed))
    assert result.alpha == pytest.approx(alpha, rel=0.15)
    assert result.correction.startswith(f'1/{n_members} subtracted')
    assert result.n_frames == 400
    assert result.n_atoms == 800


def test_small_committees_are_not_corrected():
    dataset, evaluation = synthetic(1.0, 2, 0, n_frames=2000)
    result = fit(dataset, evaluation)
    assert result.alpha == pytest.approx(np.sqrt(1 + 1 / 2), rel=0.05)
    assert result.correction.startswith('none: 2 members')


def test_the_uncertainty_of_one_model_is_calibrated_without_correction():
    """With a truth ``alpha`` times wider than the law that the model gives, about a mean that is known exactly."""
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.05, 0.5, (800, 1))
    dataset = Configurations.from_atoms(
        silicon(400, 0), role='calibration', status='labelled', energy=np.zeros(400),
        forces=2.5 * sigma * rng.normal(size=(800, 3)),
    )  # fmt: skip
    evaluation = evaluation_of(dataset, np.zeros((400, 1)), n_members=1, forces_std=sigma[:, 0])
    result = fit(dataset, evaluation)
    assert result.alpha == pytest.approx(2.5, rel=0.05)
    assert result.metrics['coverage']['68'] == pytest.approx(0.68, abs=0.03)
    assert result.correction.startswith('none: the uncertainty is that of one model')


def test_correction_is_not_applied_where_it_would_leave_nothing():
    dataset, evaluation = synthetic(0.1, 4, 0)
    result = fit(dataset, evaluation)
    assert result.alpha == pytest.approx(0.5, rel=0.1)
    assert result.correction.startswith('none: the errors')


def test_figures():
    dataset, evaluation = synthetic(3.0, 8, 1)
    result = fit(dataset, evaluation)
    errors = evaluation.forces - dataset.forces
    assert result.force_rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert result.metrics['coverage']['68'] == pytest.approx(0.68, abs=0.03)
    assert result.metrics['spearman'] > 0.5
    assert result.lower == pytest.approx(1.5 * result.force_rmse)
    assert result.upper == pytest.approx(15 * result.force_rmse)
    assert result.thresholds == Thresholds(result.lower, result.upper)


def test_uses_labelled_calibration_frames_alone():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=40)
    expected = fit(dataset.take(range(10)), evaluation)
    role = ['calibration'] * 20 + ['test'] * 10 + ['train'] * 10
    status = ['labelled'] * 10 + ['rejected'] * 5 + ['unlabelled'] * 5 + ['labelled'] * 20
    mixed = dataset.with_columns(role=role, status=status)
    assert fit(mixed, evaluation) == expected
    order = np.random.default_rng(0).permutation(40)
    shuffled = fit(mixed, evaluation.take(order))
    assert shuffled.alpha == pytest.approx(expected.alpha, rel=1e-12)
    unseen = fit(dataset, evaluation.take(range(10)))  # frames without an evaluation are left out
    assert unseen == expected


def test_nothing_to_calibrate():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=4)
    options = {'lower_factor': 1.5, 'upper_factor': 10.0}
    assert calibrate(dataset.with_columns(role=['test'] * 4), evaluation, **options) is None
    unknown = evaluation_of(dataset, np.zeros((4, 1)), n_members=1)
    assert calibrate(dataset, unknown, **options) is None
    assert calibrate(Configurations.empty(), evaluation, **options) is None


def test_dictionary_round_trip():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=4)
    result = fit(dataset, evaluation)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert Calibration.from_dict(json.loads(text)) == result
    assert Thresholds.from_dict(json.loads(json.dumps(result.thresholds.to_dict()))) == result.thresholds


def test_refusals():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=4)
    frozen = evaluation_of(dataset, np.zeros((4, 1)), forces_std=np.zeros(8))
    with pytest.raises(ValueError, match='agree to the last bit on all 4 calibration frames'):
        fit(dataset, frozen)
    seen = evaluation_of(dataset, np.zeros((4, 1)), forces=dataset.forces, forces_std=np.ones(8))
    with pytest.raises(ValueError, match='were they trained on'):
        fit(dataset, seen)
    with pytest.raises(ValueError, match='hold nothing finite'):
        fit(dataset, evaluation_of(dataset, np.zeros((4, 1))))
    with pytest.raises(ValueError, match='`upper_factor` must be a number greater than 1'):
        fit(dataset, evaluation, upper_factor=0.5)


def test_a_window_with_its_lower_end_above_its_upper_end_is_refused():
    message = r'lower end \(2 eV/Å\) not below its upper end \(1 eV/Å\), so no frame could be in it'
    with pytest.raises(ValueError, match=message):
        Thresholds(lower=2.0, upper=1.0)
    with pytest.raises(ValueError, match=message):
        Thresholds.from_dict({'lower': 2.0, 'upper': 1.0})
    with pytest.raises(ValueError, match='no frame could be in it'):
        Thresholds(lower=1.0, upper=1.0)


def by_trajectory(dataset: Configurations, iteration: int = 0, per_trajectory: int = 1) -> Configurations:
    names = [f'i{iteration:02d}-r{index // per_trajectory:03d}' for index in range(len(dataset))]
    return dataset.with_columns(trajectory=names)


def test_fewer_than_twenty_frames_fall_back_and_say_so():
    """A scale alone, no bound at the highest level, and wider ones below."""
    dataset, evaluation = synthetic(3.0, 4, 3, n_frames=100)
    dataset = by_trajectory(dataset)
    few, many = fit(dataset.take(range(12)), evaluation), fit(dataset, evaluation)
    assert few.form == 'a scale: 12 calibration frames of 12 trajectories, a power law needs 20 of 5'
    assert few.power == 1
    assert few.intervals.pooled[3] is None
    assert None not in many.intervals.pooled
    np.testing.assert_allclose(few.bounds(0.95, np.ones(2), np.array([2, 2]), ['Si', 'Si']), np.inf)
    rng = np.random.default_rng(0)
    draws = [fit(dataset.take(rng.choice(100, 12, replace=False)), evaluation).intervals.pooled[2] for _ in range(20)]
    assert np.mean(draws) > many.intervals.pooled[2]


def test_never_looks_at_test_frames():
    """Whatever their labels are, nothing changes."""
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=40)
    role = np.where(np.arange(40) % 2, 'calibration', 'test')
    dataset = by_trajectory(dataset.with_columns(role=role))
    atoms = np.repeat(role == 'test', 2)[:, None]
    other = dataset.with_columns(forces=np.where(atoms, 100.0, dataset.forces))
    assert fit(other, evaluation) == fit(dataset, evaluation)


def test_recent_iterations_weigh_more():
    """With a decay d, an iteration that is older by n counts d**n: alpha² is the weighted mean of both."""
    parts = [synthetic(alpha, 4, seed, n_frames=200) for seed, alpha in enumerate((2.0, 6.0))]
    dataset = Configurations.concatenate([by_trajectory(part, 2 * index) for index, (part, _) in enumerate(parts)])
    evaluation = type(parts[0][1]).concatenate([part for _, part in parts])
    old, new = (fit(part, evaluation).force_rmse for part, _ in parts)
    for decay in (1.0, 0.5):
        found = fit(dataset, evaluation, decay=decay)
        expected = (decay**2 * old**2 + new**2) / (decay**2 + 1)
        assert found.force_rmse == pytest.approx(np.sqrt(expected))
    assert fit(dataset, evaluation, decay=0.5).alpha > fit(dataset, evaluation).alpha


def test_a_large_and_a_small_frame_of_one_quality_have_the_same_expected_error():
    """Members drawn from one law for all atoms: raw maxima grow with the frame, calibrated values and scores do not."""
    rng = np.random.default_rng(3)
    small, large = bulk('Si', cubic=True), bulk('Si', cubic=True) * (4, 4, 4)
    frames = [atoms.copy() for atoms in [small] * 150 + [large] * 150]
    for atoms in frames:
        atoms.rattle(0.05, rng=rng)
    n_total = sum(map(len, frames))
    members, truth = 0.1 * rng.normal(size=(n_total, 3, 4)), 0.3 * rng.normal(size=(n_total, 3))
    dataset = by_trajectory(
        Configurations.from_atoms(frames, role='calibration', status='labelled', energy=0.0, forces=truth)
    )
    spread = np.sqrt(members.var(axis=2, ddof=1).mean(axis=1))
    evaluation = evaluation_of(dataset, np.zeros((300, 1)), forces=members.mean(axis=2), forces_std=spread)
    found = fit(dataset, evaluation)
    raw = evaluation.max_forces_std
    assert np.median(raw[150:]) > 1.25 * np.median(raw[:150])
    expected = found.expected_errors(raw, dataset.n_atoms)
    assert np.median(expected[150:]) == pytest.approx(np.median(expected[:150]), rel=0.03)
    assert np.median(expected) == pytest.approx(found.force_rmse, rel=0.05)
    worst = np.maximum.reduceat(np.linalg.norm(evaluation.forces - truth, axis=1), dataset.offsets[:-1])
    with_groups = worst <= found.bounds(0.9, expected, dataset.n_atoms, compositions(dataset))
    assert sorted(found.intervals.compositions) == ['Si512', 'Si8']
    assert with_groups[:150].mean() == pytest.approx(0.9, abs=0.02)
    assert with_groups[150:].mean() == pytest.approx(0.9, abs=0.02)
    # A size without enough frames of its own has the intervals of all.
    pooled = worst <= found.bounds(0.9, expected, dataset.n_atoms, ['elsewhere'] * 300)
    assert pooled[:150].mean() > 0.8
    assert pooled[150:].mean() > 0.9
    # Were both sizes held against one factor on the largest spread itself, hardly any error of the large would fit.
    ratio = worst / raw
    apart = np.mean(ratio[150:] <= np.quantile(ratio[:150], 0.5))
    assert apart < 0.2


def test_expected_errors_are_monotone():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=60)
    found = fit(by_trajectory(dataset), evaluation)
    grid = np.linspace(0, 5, 50)
    assert (np.diff(found.expected_errors(grid, np.full(50, 7))) > 0).all()


def test_each_quantity_has_a_scale_of_its_own():
    """Energies and stresses err by other factors than forces."""
    dataset, evaluation = synthetic(3.0, 8, 4, n_frames=2000)
    rng = np.random.default_rng(1)
    energy, stress = rng.normal(size=2000), rng.normal(size=(2000, 6))
    evaluation = evaluation.with_columns(
        energy=dataset.energy + 5 * energy, energy_std=np.ones(2000), stress=2 * stress, stress_std=np.ones(2000)
    )
    found = fit(dataset.with_columns(stress=np.zeros((2000, 6))), evaluation)
    assert found.scales['forces'] == pytest.approx(found.alpha)
    assert found.scales['energy_per_atom'] == pytest.approx(np.sqrt(25 - 1 / 8), rel=0.05)
    assert found.scales['stress'] == pytest.approx(np.sqrt(4 - 1 / 8), rel=0.05)
    assert fit(dataset, evaluation.with_columns(stress_std=np.full(2000, np.nan))).scales['stress'] is None


@pytest.mark.parametrize('name', ['forces_mean', 'energy_per_atom', 'latent_distance', 'forces_max + mahalanobis'])
def test_every_measure_is_calibrated_to_force_errors(name):
    """Mean squared expected and actual errors of atoms agree, whatever the units of the measure."""
    rng = np.random.default_rng(7)
    quality = rng.uniform(0.2, 1, 100)
    frames = silicon(140, 0)
    dataset = Configurations.from_atoms(
        frames, role=['calibration'] * 100 + ['train'] * 40, status='labelled', energy=0.0,
        forces=np.repeat(np.concatenate((quality, np.zeros(40))), 2)[:, None] * rng.normal(size=(280, 3)),
    )  # fmt: skip
    far = np.concatenate((10 * quality, np.ones(40)))[:, None]
    evaluation = evaluation_of(
        dataset, far * rng.normal(size=(140, 5)), spread=np.concatenate((quality, np.ones(40))) / 7
    ).with_columns(energy_std=np.concatenate((quality, np.ones(40))))
    found = fit(by_trajectory(dataset), evaluation, uncertainty=name)
    assert found.uncertainty == name
    assert found.metrics['sharpness'] == pytest.approx(found.force_rmse, rel=0.1)
    assert found.metrics['frames']['spearman'] > 0.2


def test_a_measure_that_says_nothing_is_refused():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=4)
    for name in ('stress', 'latent_distance'):  # no spread of the stress here, and no training frames
        with pytest.raises(
            ValueError, match='hold nothing finite: look at their evaluation, or choose another measure'
        ):
            fit(dataset, evaluation, uncertainty=name)


def test_a_frame_that_broke_the_model_is_within_no_interval():
    dataset, evaluation = synthetic(3.0, 4, 2, n_frames=40)
    dataset = by_trajectory(dataset)
    broken = np.isin(np.arange(40), [3, 4, 5, 6, 7])
    forces = np.where(np.repeat(broken, 2)[:, None], np.nan, evaluation.forces)
    found, rest = fit(dataset, evaluation.with_columns(forces=forces)), fit(dataset.take(~broken), evaluation)
    assert (found.n_frames, found.n_broken) == (35, 5)
    assert found.alpha == pytest.approx(rest.alpha)
    assert found.intervals.pooled[0] > rest.intervals.pooled[0]
    assert found.intervals.pooled[2] is None  # one in eight broke it
