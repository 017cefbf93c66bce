"""Small contents for the Data nodes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.decision import Decision
from aiida_mlipal.science.evaluation import Evaluation


def make_configurations(n_frames: int = 3) -> Configurations:
    """Return silicon crystals and one molecule: mixed compositions and periodicity; the first two labelled."""
    rng = np.random.default_rng(7)
    frames = []
    for index in range(n_frames):
        atoms = molecule('H2O', vacuum=4.0) if index == 2 else bulk('Si', cubic=index % 2 == 0)
        atoms.positions += rng.normal(0.0, 0.01, (len(atoms), 3))
        frames.append(atoms)
    configurations = Configurations.from_atoms(frames, origin='rattle', role=['train', *['candidate'] * (n_frames - 1)])
    return configurations.with_columns(
        status=(['labelled', 'rejected'] + ['unlabelled'] * n_frames)[:n_frames],
        reason=(['', 'SCF did not converge'] + [''] * n_frames)[:n_frames],
        energy=np.where(np.arange(n_frames) == 0, -3.1415926535897931, np.nan),
        forces=np.where(
            configurations.atom_frame[:, None] == 0, rng.normal(size=configurations.positions.shape), np.nan
        ),
    )


def make_evaluation(n_members: int = 4) -> Evaluation:
    """Return predictions for three frames of 2, 1 and 3 atoms."""
    rng = np.random.default_rng(8)
    spread = (lambda *shape: rng.uniform(size=shape)) if n_members > 1 else (lambda *shape: np.full(shape, np.nan))
    return Evaluation(
        frame_id=np.array(['fa', 'fbb', 'fc']), n_atoms=np.array([2, 1, 3]), energy=rng.normal(size=3),
        forces=rng.normal(size=(6, 3)), stress=rng.normal(size=(3, 6)), energy_std=spread(3), forces_std=spread(6),
        stress_std=spread(3),
        member_energy=rng.normal(size=(3, n_members)), descriptors=rng.normal(size=(3, 5)),
    )  # fmt: skip


@pytest.fixture
def configurations() -> Configurations:
    return make_configurations()


@pytest.fixture
def evaluation() -> Evaluation:
    return make_evaluation()


def model_metadata(**changes: Any) -> dict[str, Any]:
    """Return the metadata of a single model."""
    return {
        'elements': ['Si'], 'r_max': 4.5, 'dtype': 'float32', 'seeds': [1], 'level_of_theory_hash': 'abc',
        'software': {'mace': '0.3.16'}, 'errors': {'force_rmse': 0.1}, 'settings_hash': 'def', **changes,
    }  # fmt: skip


def make_model(seed: int = 1, content: bytes | None = None, **changes: Any) -> MlipModelData:
    """Return an unstored single model; its file is not a real one, nothing here unpickles it."""
    content = f'weights of {seed}'.encode() if content is None else content
    return MlipModelData([io.BytesIO(content)], metadata=model_metadata(seeds=[seed], **changes))


def make_decision() -> Decision:
    """Return a decision on four frames: one of the stream, two selected, one not."""
    return Decision(
        frame_id=np.array(['fa', 'fb', 'fc', 'fd']), uncertainty=np.array([0.1, 0.2, 0.3, 0.05]),
        calibrated=np.array([0.3, 0.6, 0.9, 0.15]), distance=np.array([1.0, np.inf, 2.0, 0.0]),
        gain=np.array([np.nan, 1.5, 2.5, np.nan]), klass=np.array(['stream', 'selected', 'selected', 'accurate']),
        rank=np.array([0, 2, 1, -1]),
        reason=np.array(['Drawn at random.', 'Second.', 'First.', 'Below the trust window.']),
        method='max_det', seed=11, iteration=2, thresholds={'lower': 1 / 3, 'upper': 3.0},
    )  # fmt: skip


@pytest.fixture
def decision() -> Decision:
    return make_decision()
