"""The decision with and without a prescreen."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm

from aiida_mlipal.calculations.functions.select import select_candidates, select_frames
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.configurations import Configurations
from tests.science.builders import evaluation_of, silicon

N_FRAMES = 8


@pytest.fixture
def inputs():
    """Return the inputs of a decision on eight frames, two of them of the random stream; the model says: no forces."""
    rng = np.random.default_rng(3)
    role = ['calibration', 'test'] + ['candidate'] * (N_FRAMES - 2)
    pool = Configurations.from_atoms(silicon(N_FRAMES, seed=1), role=role)
    dataset = Configurations.from_atoms(
        silicon(3, seed=2), energy=-1.0, forces=[0.0, 0.0, 0.0], status='labelled', role='train'
    )
    return {
        'pool': ConfigurationsData(pool).store(),
        'evaluation': _evaluation(pool, rng),
        'exploration': orm.Dict({'unbiased_max_forces_std': [], 'n_unreached': 0}).store(),
        'dataset': ConfigurationsData(dataset, level_of_theory={'code': 'expensive'}).store(),
        'dataset_evaluation': _evaluation(dataset, rng),
        'calibration': orm.Dict({'fitted': False}).store(),
        'selection': orm.Dict({'n_labels': 8, 'random_share': 0.25}).store(),
        'budget': orm.Dict({}).store(),
        'decision': orm.Dict({'iteration': -1, 'n_labels': 3}).store(),
        'seed': orm.Int(1).store(),
    }


def _evaluation(frames, rng):
    evaluation = evaluation_of(frames, rng.normal(size=(len(frames), 4)), spread=np.full(len(frames), 0.1))
    return EvaluationData(evaluation, model_sha256='0' * 64).store()


def _cheap(pool: ConfigurationsData, largest: list[float]) -> ConfigurationsData:
    """Return labels of the candidates whose largest force is the given one; a negative number is a failed label."""
    frames = select_candidates(pool).configurations
    forces = np.zeros((len(frames.numbers), 3))
    forces[frames.offsets[:-1], 2] = largest
    failed = np.array(largest) < 0
    labels = frames.with_columns(
        energy=np.zeros(len(frames)),
        forces=forces,
        status=np.where(failed, 'rejected', 'labelled'),
        reason=np.where(failed, 'no SCF', ''),
    )
    return ConfigurationsData(labels, level_of_theory={'code': 'cheap'})


def test_only_contradicted_candidates_are_labelled(inputs):
    """Agreement closes a candidate, a failed cheap label does not, and the random stream is not asked."""
    prescreen = _cheap(inputs['pool'], [0.05, 0.5, 0.2, -1.0, 0.21, 0.0])
    pool = inputs['pool'].configurations
    assert set(prescreen.configurations.role.tolist()) == {'candidate'}
    chosen = select_frames(**inputs, prescreen=prescreen, prescreen_settings=orm.Dict({'threshold': 0.2}))
    decision = chosen['selection'].decision
    assert decision.klass.tolist() == [
        'stream', 'stream', 'agreed', 'selected', 'agreed', 'selected', 'selected', 'agreed',
    ]  # fmt: skip
    assert decision.reason[2] == (
        'The cheap level agrees with the model: largest force difference 0.050 eV/Å, threshold 0.2.'
    )
    assert decision.counts['agreed'] == 3
    taken = chosen['frames'].configurations.frame_id.tolist()
    assert set(taken) == set(pool.frame_id[[0, 1, 3, 5, 6]].tolist())
    creator = chosen['selection'].creator
    assert creator.inputs.prescreen.uuid == prescreen.uuid
    assert creator.inputs.prescreen_settings['threshold'] == 0.2


def test_labels_of_the_stream_would_not_matter(inputs):
    """Were the cheap level to look at the random stream, its frames would be taken all the same."""
    pool = inputs['pool'].configurations
    everything = pool.with_columns(
        energy=np.zeros(N_FRAMES), forces=np.zeros((len(pool.numbers), 3)), status=['labelled'] * N_FRAMES
    )
    chosen = select_frames(
        **inputs,
        prescreen=ConfigurationsData(everything, level_of_theory={'code': 'cheap'}),
        prescreen_settings=orm.Dict({'threshold': 0.2}),
    )
    assert chosen['selection'].decision.klass.tolist() == ['stream'] * 2 + ['agreed'] * 6
    assert chosen['frames'].n_frames == 2


def test_without_a_prescreen_the_decision_is_what_it_was(inputs):
    """No trace of it in the node, so that earlier campaigns are found in the cache."""
    chosen = select_frames(**inputs)
    assert 'agreed' not in chosen['selection'].base.attributes.get('counts')
    links = {link.link_label for link in chosen['selection'].creator.base.links.get_incoming().all()}
    assert links == set(inputs)
