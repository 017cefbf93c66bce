"""The plan of a training that goes on is made of nodes that are there anyway."""

from __future__ import annotations

import io

import numpy as np
from aiida import orm

from aiida_mlipal.calculations.functions.warm_start import plan_warm_start
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from tests.science.builders import evaluation_of, silicon

METADATA = {
    'elements': ['Si'], 'r_max': 4.0, 'dtype': 'float32', 'seeds': [11, 12], 'level_of_theory_hash': '', 'errors': {},
    'software': {}, 'settings_hash': '',
}  # fmt: skip


def test_new_and_hard_frames_come_first():
    frames = Configurations.from_atoms(
        silicon(12, 1),
        role=['train'] * 10 + ['validation', 'test'],
        status='labelled',
        energy=0.0,
        forces=np.zeros((24, 3)),
    )
    forces = np.zeros((len(frames.numbers), 3))
    forces[6:8] = 1.0  # the model was wrong on frame 3
    old = np.array([0, 1, 2, 3, 4, 5, 6, 10])
    evaluated = evaluation_of(frames, np.zeros((12, 2)), forces=forces)
    model = MlipModelData([io.BytesIO(b'a'), io.BytesIO(b'b')], metadata=METADATA).store()

    def plan(**training):
        planned = plan_warm_start(
            model=model,
            dataset=ConfigurationsData(frames, {'cutoff': 30}).store(),
            dataset_evaluation=EvaluationData(evaluated.take(old), 'ab').store(),
            pool_evaluation=EvaluationData(evaluated.take(np.array([7, 8, 9, 11])), 'ab').store(),
            training=orm.Dict({'seeds': [1], 'max_num_epochs': 20, **training}).store(),
            warm_start=orm.Dict({'every': 3, 'epochs': 0.5, 'replay': 0.3, 'hard': 0.15, 'weight': 4}).store(),
        )
        return planned['settings'], planned['copies']

    settings, arrays = plan(seeds=[1, 2])
    copies = dict(zip(arrays.get_array('frame_id').tolist(), arrays.get_array('copies').tolist(), strict=True))
    assert len(copies) == 10, 'frames that validate or test are none of it'
    assert [copies[frames.frame_id[row]] for row in (7, 8, 9)] == [4, 4, 4]
    assert copies[frames.frame_id[3]] == 4
    assert sorted(copies[frames.frame_id[row]] for row in (0, 1, 2, 4, 5, 6)).count(1) in (1, 2)
    assert settings['seeds'] == [11, 12]
    assert settings['max_num_epochs'] == 10
    assert trace(settings).gaps == trace(arrays).gaps == []
    model = MlipModelData([io.BytesIO(b'a')], metadata={**METADATA, 'seeds': [11]}).store()
    assert plan(uncertainty='llpr')[1].get_array('copies').min() == 1, 'its uncertainty follows from all frames'
