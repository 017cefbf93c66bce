from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.prescreen import PrescreenSettings, agreements, largest_force_differences
from aiida_mlipal.science.settings import from_dict

from .builders import evaluation_of, silicon


def _labels(n_frames: int, forces: np.ndarray, **columns) -> Configurations:
    columns = {'status': 'labelled', **columns}
    return Configurations.from_atoms(silicon(n_frames, seed=1), forces=forces, energy=-3.0, **columns)


def _evaluation(labels: Configurations, forces: np.ndarray):
    return evaluation_of(labels, np.zeros((len(labels), 2)), forces=forces)


def test_the_largest_norm_on_one_atom_counts():
    """(0.3, 0.4, 0) on one atom is 0.5 eV/Å, whatever the other atom says; energies do not count."""
    forces = np.zeros((4, 3))
    forces[1] = [0.3, 0.4, 0.0]
    forces[2], forces[3] = [0.1, 0, 0], [-0.1, 0, 0]
    labels = _labels(2, forces)
    differences = largest_force_differences(labels, _evaluation(labels, np.zeros((4, 3))))
    assert list(differences) == labels.frame_id.tolist()
    assert list(differences.values()) == pytest.approx([0.5, 0.1])
    agreed = agreements(labels, _evaluation(labels, np.zeros((4, 3))), PrescreenSettings(threshold=0.2))
    assert agreed == {
        labels.frame_id[1]: 'The cheap level agrees with the model: largest force difference 0.100 eV/Å, threshold 0.2.'
    }


def test_a_failed_label_or_prediction_never_agrees():
    labels = _labels(3, np.zeros((6, 3)), status=['labelled', 'rejected', 'labelled'], reason=['', 'no SCF', ''])
    predicted = np.zeros((6, 3))
    predicted[4] = np.nan
    assert list(agreements(labels, _evaluation(labels, predicted), PrescreenSettings(threshold=9.0))) == [
        labels.frame_id[0]
    ]
    assert agreements(labels.take([1]), _evaluation(labels, predicted), PrescreenSettings(threshold=9.0)) == {}


@given(seed=st.integers(0, 10**6), low=st.floats(0.01, 3), high=st.floats(0.01, 3), n_frames=st.integers(1, 8))
def test_order_does_not_matter_and_a_larger_threshold_agrees_more(seed, low, high, n_frames):
    rng = np.random.default_rng(seed)
    labels = _labels(n_frames, rng.normal(size=(2 * n_frames, 3)))
    evaluation = _evaluation(labels, rng.normal(size=(2 * n_frames, 3)))
    order = rng.permutation(n_frames)
    narrow, wide = sorted((low, high))
    agreed = agreements(labels, evaluation, PrescreenSettings(threshold=narrow))
    assert agreements(labels.take(order), evaluation.take(order[::-1]), PrescreenSettings(threshold=narrow)) == agreed
    assert set(agreed) <= set(agreements(labels, evaluation, PrescreenSettings(threshold=wide)))


@pytest.mark.parametrize('threshold', [0, -0.1, 'small', float('nan')])
def test_a_threshold_is_a_positive_number(threshold):
    with pytest.raises(ValueError, match='`threshold` must be a number greater than 0'):
        PrescreenSettings(threshold=threshold)
    with pytest.raises(ValueError, match='Did you mean `threshold`'):
        from_dict(PrescreenSettings, {'treshold': 0.1})
