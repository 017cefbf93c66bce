"""A campaign and its control arm on real codes: what is shared, what is compared, and what the commands say of it."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk
from click.testing import CliRunner

from aiida_mlipal.cli import main
from aiida_mlipal.provenance.control import arms_of
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.controlled import ControlledCampaignWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(2400)]

OVERRIDES = {
    'seeds': {'recipe': [{'generator': 'rattle', 'n_frames': 8, 'stdev': 0.08}, {'generator': 'isolated_atoms'}]},
    'label': {'parameters': {'calculator': 'emt'}},
    'training': {'n_members': 2, 'num_channels': 8, 'r_max': 4.0, 'max_num_epochs': 15, 'batch_size': 2},
    'exploration': {'temperatures': [300.0, 900.0], 'n_replicas_per_temperature': 2, 'n_steps': 60, 'stride': 5},
    'selection': {'n_labels': 6, 'random_share': 0.5},
    'convergence': {'n_test_frames': 2},
    'budget': {'max_iterations': 2},
    'validation': {'eos': False},
}


def labelled_frames(arm: orm.WorkChainNode) -> list[str]:
    """Return the frames that an arm had computed, as its label chunks name them."""
    chunks = [node for node in arm.called_descendants if node.process_label == 'collect_costs']
    return [frame for node in chunks for frame in node.outputs.result.get_dict()['frame_ids']]


def test_both_arms(python_code, tmp_path):
    """Labels that both arms need are paid once; both are judged on the same frames; the commands take the PK."""
    campaign = ActiveLearningWorkChain.get_builder_from_protocol(
        orm.StructureData(ase=bulk('Cu', a=3.6, cubic=True)),
        {'label': python_code, 'train': python_code}, protocol='fast', engine='ase', overrides=OVERRIDES,
    )  # fmt: skip
    node = run_get_node(ControlledCampaignWorkChain.get_builder_from_campaign(campaign))[1]
    assert node.is_finished_ok, node.exit_message
    arms = arms_of(node)
    assert list(arms) == ['campaign', 'control']
    paid = {name: labelled_frames(arm) for name, arm in arms.items()}
    assert len(paid['campaign']) >= 8 + 1 + 6
    assert not set(paid['campaign']) & set(paid['control']), 'a label was paid twice'
    both = [arm.outputs.dataset.configurations for arm in arms.values()]
    assert len(set(both[0].frame_id.tolist()) & set(both[1].frame_id.tolist())) >= 9
    assert arms['control'].inputs.selection['method'] == 'random'
    assert arms['control'].outputs.selections.iteration_00.base.attributes.get('method') == 'random'
    # The first model of both arms has seen the same frames and has the same seeds.
    first = [arm.outputs.models.iteration_00.digest for arm in arms.values()]
    assert first[0] == first[1]

    comparison = node.outputs.comparison.get_dict()
    for arm, points in comparison['arms'].items():
        assert [point['model'] for point in points] == sorted(arms[arm].outputs.models)
        assert all(point['n_frames'] == comparison['n_frames'] for point in points)
    assert comparison['arms']['campaign'][0] == comparison['arms']['control'][0]
    assert comparison['n_frames'] >= 6
    assert comparison['saving']['ratio'] > 0
    assert trace(node).gaps == []

    def output(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert comparison['sentence'] in output('status', node.pk)
    assert output('lineage', node.pk).endswith('lineage: 0 gaps\n')
    for number, pk in enumerate((node.pk, arms['campaign'].pk)):
        output('report', pk, '-o', tmp_path / f'{number}.html')
        page = (tmp_path / f'{number}.html').read_text()
        assert 'id="control"' in page
        assert comparison['sentence'] in page
