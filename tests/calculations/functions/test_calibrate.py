"""The calibration and its prospective check, from node to node."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlipal.calculations.functions.calibrate import calibrate_uncertainty, check_calibration, fitted_calibration
from aiida_mlipal.calculations.functions.select import select_frames
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from tests.science.builders import evaluation_of, silicon

LEVEL = {'code': 'emt'}


def frames(n: int, seed: int, iteration: int, role: str, error: float) -> tuple[Configurations, Evaluation]:
    """Return labelled frames of which a committee errs ``error`` times its spread."""
    rng = np.random.default_rng(seed)
    sigma = np.repeat(rng.uniform(0.1, 0.3, n), 2)
    labels = Configurations.from_atoms(
        silicon(n, seed), role=role, status='labelled', energy=0.0, temperature=300.0,
        trajectory=[f'i{iteration:02d}-r{index:03d}' for index in range(n)],
        forces=error * sigma[:, None] * rng.normal(size=(2 * n, 3)),
    )  # fmt: skip
    return labels, evaluation_of(labels, rng.normal(size=(n, 3)), forces_std=sigma)


def campaign(error: float, uncertainty: str = 'forces_max', n_calibration: int = 40, n_unreached: int = 0):
    """Return the calibration of iteration 1, its selection, and the check on labels of which it errs ``error`` times.

    The calibration is fitted to frames on which the committee errs as much as its spread.
    """
    parts = [frames(n_calibration, 1, 0, 'calibration', 1.0), frames(10, 2, 0, 'train', 1.0)]
    known = Configurations.concatenate([labels for labels, _ in parts])
    dataset = ConfigurationsData(known, level_of_theory=LEVEL)
    dataset_evaluation = EvaluationData(Evaluation.concatenate([found for _, found in parts]), 'a' * 64)
    settings = orm.Dict({'n_labels': 14, 'random_share': 0.86, 'uncertainty': uncertainty})
    calibration = calibrate_uncertainty(dataset, dataset_evaluation, settings)

    new, predictions = frames(16, 3, 1, 'test', error)
    new = new.with_columns(role=['test'] * 12 + ['candidate'] * 4)
    blank = {'status': ['unlabelled'] * 16, 'energy': np.full(16, np.nan), 'forces': np.full((32, 3), np.nan)}
    evaluation = EvaluationData(predictions, 'a' * 64)
    chosen = select_frames(
        pool=ConfigurationsData(new.with_columns(**blank)),
        evaluation=evaluation,
        exploration=orm.Dict(
            {'unbiased_max_forces_std': predictions.max_forces_std.tolist(), 'n_unreached': n_unreached}
        ),
        dataset=dataset,
        dataset_evaluation=dataset_evaluation,
        calibration=calibration,
        selection=settings,
        budget=orm.Dict({}),
        decision=orm.Dict({'iteration': 0, 'n_labels': 40}),
        seed=orm.Int(1),
    )
    taken = chosen['frames'].configurations
    labels = new.take(new.index_of(taken.frame_id)).with_columns(role=taken.role)
    arguments = {
        'labels': ConfigurationsData(labels, level_of_theory=LEVEL),
        'pool_evaluation': evaluation,
        'selection': chosen['selection'],
        'calibration': calibration,
    }
    return arguments, check_calibration(**arguments)


def test_an_alarm_goes_off_for_a_model_that_errs_more_than_it_says():
    for error, alarm in ((1.0, False), (4.0, True)):
        arguments, coverage = campaign(error)
        assert coverage['tested']
        assert coverage['alarm'] is alarm
        assert bool(coverage['messages']) is alarm
        assert coverage['n_frames'] == coverage['n_trajectories'] == 12
        inputs = {link.link_label: link.node.uuid for link in coverage.base.links.get_incoming().one().node.base.links
                  .get_incoming().all()}  # fmt: skip
        assert inputs['calibration'] == arguments['calibration'].uuid
        assert inputs['selection'] == arguments['selection'].uuid


def test_intervals_are_those_that_the_selection_knew():
    arguments, coverage = campaign(1.0)
    decision = arguments['selection'].decision
    rows = {str(frame): row for row, frame in enumerate(decision.frame_id)}
    for entry in coverage['frames']:
        assert entry['expected'] == pytest.approx(decision.calibrated[rows[entry['frame_id']]])
    fitted = fitted_calibration(arguments['calibration'])
    assert decision.thresholds['upper'] == pytest.approx(fitted.upper)
    assert decision.thresholds['lower'] <= fitted.lower
    expected = fitted.expected_errors(decision.uncertainty, np.full(len(decision), 2))
    np.testing.assert_allclose(decision.calibrated, expected)


def test_checks_add_up_over_iterations():
    arguments, first = campaign(2.0)
    second = check_calibration(**arguments, previous=first)
    for before, after in zip(first['levels'], second['levels'], strict=True):
        assert after['n_frames_in_all'] == 2 * before['n_frames']
    assert second.creator.inputs.previous.uuid == first.uuid


@pytest.mark.parametrize('uncertainty', ['forces_mean', 'latent_distance', 'forces_max + mahalanobis'])
def test_every_measure_selects_in_calibrated_units(uncertainty):
    arguments, coverage = campaign(1.0, uncertainty)
    assert arguments['calibration']['uncertainty'] == uncertainty
    assert coverage['tested']
    assert np.isfinite(arguments['selection'].decision.calibrated).all()
    share = arguments['selection'].base.attributes.get('uncertain_share')
    stream = arguments['selection'].decision
    above = stream.calibrated[stream.klass == 'stream'] > arguments['calibration']['lower']
    assert share == pytest.approx(above.mean())


def test_without_a_calibration_nothing_is_tested():
    arguments, coverage = campaign(1.0, n_calibration=0)
    assert arguments['calibration'].get_dict() == {'fitted': False}
    assert coverage.get_dict() == {
        'tested': False, 'alarm': False, 'messages': ['Nothing was tested: there was no calibration yet.'],
    }  # fmt: skip


def test_few_calibration_frames_say_so_in_the_node():
    arguments, coverage = campaign(1.0, n_calibration=6)
    calibration = arguments['calibration']
    assert calibration['form'] == 'a scale: 6 calibration frames of 6 trajectories, a power law needs 20 of 5'
    assert calibration['intervals']['pooled'][2:] == [None, None]
    assert [entry['n_frames'] for entry in coverage['levels']] == [12, 12, 0, 0]


def test_time_that_stopped_replicas_did_not_reach_is_uncertain():
    shares = [campaign(1.0, n_unreached=n)[0]['selection'].base.attributes.get('uncertain_share') for n in (0, 16)]
    assert 0 <= shares[0] < 1
    assert shares[1] == pytest.approx(0.5 + 0.5 * shares[0])  # 16 frames were visited, as many were not
