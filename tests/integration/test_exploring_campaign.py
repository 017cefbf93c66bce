"""A campaign with what is unusual about exploring: a path, a bias, large cells, and going on where it broke."""

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
    'seeds': {'recipe': [{'generator': 'rattle', 'n_frames': 4, 'stdev': 0.06}, {'generator': 'isolated_atoms'}]},
    'label': {'parameters': {'calculator': 'emt'}, 'reuse': False},
    'training': {'n_members': 3, 'num_channels': 8, 'r_max': 4.0, 'max_num_epochs': 20, 'batch_size': 2},
    'exploration': {
        'temperatures': [300.0, 1200.0], 'n_replicas_per_temperature': 2, 'n_steps': 60, 'stride': 5,
        'plans': [
            {'kind': 'dynamics'},
            {'kind': 'neb', 'ends': [[0, 1]], 'n_images': 3, 'max_steps': 60, 'converged_force': 0.1},
            {'kind': 'uncertainty_bias', 'temperatures': [600.0], 'n_replicas_per_temperature': 3},
        ],
        'starts': {'training': 0.25, 'uncertain': 0.25, 'last_safe': 0.125, 'structures': 0.375},
        'max_force': 1.6, 'max_candidates': 20, 'max_label_atoms': 40, 'cutout_radius': 2.6,
    },
    'selection': {'n_labels': 20, 'random_share': 0.2},
    'convergence': {'n_test_frames': 2},
    'budget': {'max_iterations': 2},
    'validation': {'eos': False},
}  # fmt: skip


def structures() -> list[orm.StructureData]:
    """Return a vacancy, the same after an atom jumped into it, and a cell that is too large for a label."""
    sites = bulk('Cu', a=3.6, cubic=True)
    small = sites * (2, 1, 1)
    here, there = small.copy(), small.copy()
    there.positions[1] = small.positions[0]
    del here[0], there[0]
    return [orm.StructureData(ase=atoms) for atoms in (here, there, sites * (4, 2, 2))]


def test_paths_biases_cutouts_and_continued_starts_together(python_code, tmp_path):
    builder = ActiveLearningWorkChain.get_builder_from_protocol(
        structures(), {'label': python_code, 'train': python_code}, protocol='fast', engine='ase', seed=3,
        overrides=OVERRIDES,
    )  # fmt: skip
    node = run_get_node(builder)[1]
    assert node.is_finished_ok, node.exit_message
    assert trace(node).gaps == []

    explorations = [process for process in node.called if process.process_label == 'ExploreWorkChain']
    assert len(explorations) == 2
    for exploration in explorations:
        pool, results = exploration.outputs.pool.configurations, exploration.outputs.results.get_dict()
        assert set(pool.plan.tolist()) == {'dynamics', 'neb', 'uncertainty_bias'}
        stream = pool.has_role('calibration', 'test')
        assert stream.sum() == 4
        assert set(pool.plan[stream].tolist()) == {'dynamics'}
        assert pool.plan[pool.origin == 'saddle'].tolist() == ['neb']
        stopped = {entry['trajectory'] for entry in results['stopped']}
        assert stopped
        edges = pool.take(np.isin(pool.origin, ('last_safe', 'first_unsafe')))
        assert set(edges.trajectory.tolist()) <= stopped
        # Large candidates are not in the pool; what was cut out of them is, and they themselves are beside it.
        assert pool.n_atoms[~stream].max() <= 40
        uncut, cut = exploration.outputs.uncut.configurations, pool.take(pool.origin == 'cutout')
        assert set(uncut.n_atoms.tolist()) == {64}
        assert [told['parent'] for told in results['cutouts']] == uncut.frame_id.tolist()
        assert [told['frame_id'] for told in results['cutouts'] if 'frame_id' in told] == cut.frame_id.tolist()

    first, second = (process for process in node.called if process.process_label == 'plan_iteration')
    assert set(first.outputs.starts.configurations.origin.tolist()) == {'training', 'structures'}
    starts = second.outputs.starts.configurations
    assert sorted(starts.origin.tolist()) == ['last_safe', *['structures'] * 3, *['training'] * 2, *['uncertain'] * 2]
    before = explorations[0].outputs
    known = [before.pool.configurations, before.uncut.configurations]
    broken = {frame for frames in known for frame in frames.frame_id[frames.origin == 'last_safe'].tolist()}
    assert set(starts.frame_id[starts.origin == 'last_safe'].tolist()) <= broken

    dataset = node.outputs.dataset.configurations
    learned = dataset.is_labelled & dataset.has_role('train', 'validation')
    assert {'saddle', 'cutout'} <= set(dataset.origin[learned].tolist())
    assert np.isfinite(dataset.take(learned & (dataset.origin == 'cutout')).forces).all()
    write_report(node, tmp_path / 'report.html')
    section = (tmp_path / 'report.html').read_text().partition('id="drift"')[2].partition('</section>')[0]
    assert '<svg' in section
