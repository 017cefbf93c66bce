"""One model with the uncertainty of its last layer, from training to selection, as a committee."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_mlipal.calculations.functions.calibrate import calibrate_uncertainty
from aiida_mlipal.calculations.mace_evaluate import MaceEvaluateCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.selection import decide
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.workflows.train import TrainWorkChain
from tests.runners.training import TINY, copper

LEVEL = {'code': 'ase', 'calculator': 'emt'}


@pytest.mark.codes
@pytest.mark.parametrize('kind', ['llpr', 'heads'])
def test_training_evaluation_calibration_and_selection(python_code, kind):
    builder = TrainWorkChain.get_builder()
    builder.dataset = ConfigurationsData(copper(), level_of_theory=LEVEL)
    builder.settings = orm.Dict({**TINY, 'seeds': [7], 'uncertainty': kind})
    builder.mace.code = python_code
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    model = outputs['model']
    assert (model.n_members, model.base.attributes.get('uncertainty')) == (1, kind)
    (member,) = outputs['results']['attempt_0']['members'].values()
    assert (member['uncertainty']['kind'], member['uncertainty']['n_features']) == (kind, 4 + 16)
    assert (member['uncertainty']['n_train_frames'], member['uncertainty']['n_valid_frames']) == (4, 4)
    assert member['uncertainty']['alpha_forces'] > 0

    frames = copper(12)
    stream = frames.take(np.arange(8, 12)).with_columns(role=np.full(4, 'calibration'))
    known = ConfigurationsData(stream, level_of_theory=LEVEL)
    evaluated, node = run_get_node(MaceEvaluateCalculation, code=python_code, model=model, configurations=known)
    assert node.is_finished_ok, node.exit_message
    evaluation = evaluated['evaluation']
    assert evaluation.evaluation.forces_std.min() > 0
    assert evaluation.evaluation.energy_std.min() > 0
    assert evaluation.n_members == 1
    assert trace(evaluation).gaps == []

    calibration = calibrate_uncertainty(known, evaluation, orm.Dict(SelectionSettings().__dict__)).get_dict()
    assert calibration['fitted']
    assert calibration['n_atoms'] == 16
    assert calibration['correction'].startswith('none: the uncertainty is that of one model')
    decision = decide(
        stream.with_columns(role=np.full(4, 'candidate')),
        evaluation.evaluation,
        np.zeros((0, evaluation.evaluation.descriptors.shape[1])),
        settings=SelectionSettings(first_method='top_uncertainty', n_labels=3),
        thresholds=None,
        seed=1,
        iteration=1,
    )
    best = stream.frame_id[np.argmax(evaluation.evaluation.max_forces_std)]
    assert decision.selected_ids[0] == best
