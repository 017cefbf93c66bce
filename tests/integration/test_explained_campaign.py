"""A campaign whose decisions look at uncertainty and cost: explained, and decided again, from the graph alone."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk
from click.testing import CliRunner

from aiida_mlipal.cli import main
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.provenance.replay import replay
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(1800)]

OVERRIDES = {
    'seeds': {'recipe': [{'generator': 'rattle', 'n_frames': 10, 'stdev': 0.08}, {'generator': 'isolated_atoms'}]},
    'label': {'parameters': {'calculator': 'emt'}, 'reuse': False},
    'training': {'n_members': 4, 'num_channels': 8, 'r_max': 4.0, 'max_num_epochs': 20, 'batch_size': 2},
    'exploration': {'temperatures': [300.0, 900.0], 'n_replicas_per_temperature': 2, 'n_steps': 60, 'stride': 3},
    'selection': {
        'n_labels': 10, 'random_share': 0.4, 'method': 'cost_aware', 'quotas': {'trajectory': 0.5},
        'lower_factor': 1.0,
    },
    'convergence': {'n_test_frames': 2},
    'budget': {'max_iterations': 2},
    'validation': {'eos': False},
}  # fmt: skip


def run(*arguments) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_two_iterations(python_code, tmp_path):
    builder = ActiveLearningWorkChain.get_builder_from_protocol(
        orm.StructureData(ase=bulk('Cu', a=3.6, cubic=True)), {'label': python_code, 'train': python_code},
        protocol='fast', engine='ase', seed=3, overrides=OVERRIDES,
    )  # fmt: skip
    node = run_get_node(builder)[1]
    assert node.is_finished_ok, node.exit_message
    assert trace(node).gaps == []
    for name in ('iteration_00', 'iteration_01'):
        selection = node.outputs.selections[name]
        inputs = selection.creator.inputs
        assert inputs.costs.creator.process_label == 'predict_label_costs'
        assert inputs.costs['n_observations'] > 0
        assert len(inputs.costs['core_s']) == len(selection.decision)
        assert replay(selection, {}).differing_columns == []
        assert 'bit for bit' in run('replay', selection.pk)
        assert 'replayed with lcmd' in run('replay', selection.pk, '--strategy', 'lcmd', '--seed', 5)
    decision = node.outputs.selections.iteration_01.decision
    taken = decision.klass == 'selected'
    left = np.isin(decision.klass, ['candidate', 'accurate', 'failed', 'duplicate'])
    assert taken.any()
    assert left.any()
    pages = []
    for rows, extreme in ((taken, np.nanargmax), (left, np.nanargmin)):
        frame = str(decision.frame_id[rows][extreme(decision.calibrated[rows])])
        pages.append(run('explain', frame))
        assert f'Iteration 1 (decision {node.outputs.selections.iteration_01.pk}' in pages[-1]
    pages += [run('explain', node.pk), run('replay', node.outputs.selections.iteration_01.pk, '--strategy', 'random')]
    # What the page on decisions shows; pytest keeps the folder.
    (tmp_path / 'explained.txt').write_text('\n\n'.join(pages), encoding='utf-8')
