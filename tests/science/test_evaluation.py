from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation

from .builders import evaluation_of

CONFIGS = Configurations.from_atoms([bulk('Si'), molecule('H2O'), bulk('Al')])
SPREAD = np.array([0.1, 0.3, 0.2, 0.9, 0.4, 0.7])


def evaluation() -> Evaluation:
    return evaluation_of(CONFIGS, np.arange(6.0).reshape(3, 2), forces_std=SPREAD, forces=np.arange(18.0).reshape(6, 3))


def test_max_forces_std():
    assert evaluation().max_forces_std.tolist() == [0.3, 0.9, 0.7]
    assert np.isnan(evaluation_of(CONFIGS, np.zeros((3, 1)), n_members=1).max_forces_std).all()
    assert len(evaluation().take([]).max_forces_std) == 0


def test_take_and_index():
    rows = evaluation().index_of(CONFIGS.frame_id[[2, 0]])
    part = evaluation().take(rows)
    assert part.forces_std.tolist() == [0.7, 0.1, 0.3]
    assert part.forces[0].tolist() == [15, 16, 17]
    assert part.max_forces_std.tolist() == [0.7, 0.3]
    with pytest.raises(KeyError, match='was not evaluated'):
        evaluation().index_of(['f0'])


def test_save_and_load(tmp_path):
    evaluation().save(tmp_path / 'a.npz')
    Evaluation.load(tmp_path / 'a.npz').save(tmp_path / 'b.npz')
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_bad_shapes():
    columns = evaluation().columns()
    with pytest.raises(ValueError, match=r'`forces` must have shape \(6, 3\)'):
        Evaluation(**{**columns, 'forces': np.zeros((5, 3))})
    with pytest.raises(ValueError, match=r'`energy` must have shape \(3,\), got \(2,\)'):
        Evaluation(**{**columns, 'energy': np.zeros(2)})
