"""A campaign on two levels of theory with real codes: a cheap calculator looks at all candidates first."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.provenance.processes import called_by
from aiida_mlipal.provenance.status import read_status
from aiida_mlipal.report.cost import cost_per_stage
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(1800)]

THRESHOLD = 0.1
OVERRIDES = {
    'seeds': {
        'recipe': [
            {'generator': 'rattle', 'n_frames': 8, 'stdev': 0.08},
            {'generator': 'isotropic_strain', 'n_frames': 3, 'min': -0.03, 'max': 0.03},
            {'generator': 'isolated_atoms'},
        ]
    },
    'label': {'parameters': {'calculator': 'emt'}},
    # The same potential with another cutoff: a second level of theory, and not a bad one.
    'prescreen': {
        'engine': 'ase',
        'threshold': THRESHOLD,
        'parameters': {'calculator': 'emt', 'parameters': {'asap_cutoff': True}},
    },
    'training': {'n_members': 2, 'num_channels': 8, 'r_max': 4.0, 'max_num_epochs': 20, 'batch_size': 2},
    'exploration': {'temperatures': [300.0, 900.0], 'n_replicas_per_temperature': 2, 'n_steps': 60, 'stride': 5},
    'selection': {'n_labels': 8, 'random_share': 0.5},
    'convergence': {'n_test_frames': 2},
    'budget': {'max_iterations': 1},
    'validation': {'eos': False},
}


def test_the_cheap_level_saves_labels(python_code):
    """What both agree upon is not labelled; everything else about the campaign is as ever."""
    builder = ActiveLearningWorkChain.get_builder_from_protocol(
        orm.StructureData(ase=bulk('Cu', a=3.6, cubic=True)),
        {'label': python_code, 'train': python_code, 'prescreen': python_code},
        protocol='fast',
        engine='ase',
        overrides=OVERRIDES,
    )
    node = run_get_node(builder)[1]
    assert node.is_finished_ok, node.exit_message
    assert trace(node).gaps == []

    processes = called_by(node)
    (prescreen,) = (orm.load_node(p.pk) for p in processes if p.name == 'PrescreenWorkChain')
    (exploration,) = (orm.load_node(p.pk) for p in processes if p.name == 'ExploreWorkChain')
    pool = exploration.outputs.pool.configurations
    cheap = prescreen.outputs.labels.configurations
    assert cheap.frame_id.tolist() == pool.frame_id[pool.has_role('candidate')].tolist()
    assert len(cheap) > 4

    # The comparison, once more and by hand.
    evaluation = exploration.outputs.evaluation.evaluation
    agreed = set()
    for index, frame in enumerate(cheap.frame_id.tolist()):
        atoms: Atoms = cheap.atoms(index)
        atoms.calc = EMT(asap_cutoff=True)
        model = evaluation.take(evaluation.index_of([frame]))
        if np.linalg.norm(atoms.get_forces() - model.forces, axis=1).max() <= THRESHOLD:
            agreed.add(frame)
    selection = node.outputs.selections.iteration_00
    decision = selection.decision
    closed = set(decision.frame_id[decision.klass == 'agreed'].tolist())
    assert closed <= agreed
    assert closed, 'measured: 37 of 44, the largest differences lie between 0.01 and 0.18 eV/Å'
    assert decision.n_selected
    assert not agreed & set(decision.frame_id[np.isin(decision.klass, ['candidate', 'selected'])].tolist())
    assert decision.n_stream >= 4, 'the random stream is labelled all the same'
    dataset = node.outputs.dataset.configurations
    assert not closed & set(dataset.frame_id.tolist())
    assert selection.creator.inputs.prescreen.uuid == prescreen.outputs.labels.uuid
    assert node.outputs.dataset.level_of_theory['parameters'] == {}, 'cheap labels are not trained on'

    # Cheap labels are not counted among the paid ones, and cost a line of their own.
    status = read_status(node)
    assert status.paid_labels == (~dataset.has_role('isolated_atom')).sum()
    assert [cost.stage for cost in cost_per_stage(node.pk, processes)][:3] == ['seeds', 'labels', 'prescreen']
