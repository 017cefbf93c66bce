"""A campaign with one model per iteration: the uncertainty of its last layer does what a committee's spread does."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.report import write_report
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(1800)]

OVERRIDES = {
    'seeds': {'recipe': [{'generator': 'rattle', 'n_frames': 10, 'stdev': 0.08}, {'generator': 'isolated_atoms'}]},
    'label': {'parameters': {'calculator': 'emt'}, 'reuse': False},
    'training': {
        'n_members': 1, 'num_channels': 8, 'r_max': 4.0, 'max_num_epochs': 20, 'batch_size': 2,
    },
    'exploration': {
        'temperatures': [300.0, 900.0], 'n_replicas_per_temperature': 2, 'n_steps': 60, 'stride': 5,
        'starts': {'training': 0.25, 'uncertain': 0.5, 'structures': 0.25},
    },
    'selection': {'n_labels': 8, 'random_share': 0.5, 'method': 'top_uncertainty'},
    'convergence': {'n_test_frames': 2},
    'budget': {'max_iterations': 2},
    'validation': {'eos': False},
}  # fmt: skip


@pytest.mark.parametrize('kind', ['llpr', 'heads'])
def test_calibration_trust_window_and_selection(kind, python_code, tmp_path):
    builder = ActiveLearningWorkChain.get_builder_from_protocol(
        orm.StructureData(ase=bulk('Cu', a=3.6, cubic=True)),
        {'label': python_code, 'train': python_code},
        protocol='fast',
        engine='ase',
        overrides={**OVERRIDES, 'training': {**OVERRIDES['training'], 'uncertainty': kind}},
    )
    node = run_get_node(builder)[1]
    assert node.is_finished_ok, node.exit_message
    assert trace(node).gaps == []
    outputs = node.outputs
    assert (outputs.model.n_members, outputs.model.base.attributes.get('uncertainty')) == (1, kind)
    calibration = outputs.calibrations.iteration_01.get_dict()
    assert calibration['fitted']
    assert calibration['alpha'] > 0
    assert calibration['correction'].startswith('none: the uncertainty is that of one model')
    for iteration in outputs.selections:
        decision = outputs.selections[iteration].decision
        assert np.isfinite(decision.uncertainty).all()
        assert decision.n_selected > 0
    second = outputs.selections.iteration_01
    applied = second.decision.thresholds
    assert applied['upper'] == pytest.approx(calibration['upper'])
    assert applied.get('lower_calibrated', applied['lower']) == pytest.approx(calibration['lower'])
    assert second.base.attributes.get('uncertain_share') is not None
    plans = [process for process in node.called if process.process_label == 'plan_iteration']
    sources = [sorted(plan.outputs.starts.configurations.origin.tolist()) for plan in plans]
    assert sources == [
        ['structures', 'training', 'training', 'training'],
        ['structures', 'training', 'uncertain', 'uncertain'],
    ]
    write_report(node, tmp_path / 'report.html')
    assert (tmp_path / 'report.html').stat().st_size > 10_000
