"""The labels of a shared job come out of their node as they went in."""

from __future__ import annotations

import numpy as np

from aiida_mlipal.calculations.pw_labels import pack_labels, unpack_labels


def test_labels_survive_the_database():
    rng = np.random.default_rng(1)
    labels = {
        'frame_00003': {'energy': -1.5, 'forces': rng.normal(size=(2, 3)), 'stress': rng.normal(size=(3, 3))},
        'frame_00001': {'energy': 2.5, 'forces': rng.normal(size=(1, 3)), 'total_magnetization': 2.0},
        'frame_00002': {'energy': 0.1 + 0.2, 'forces': rng.normal(size=(3, 3)), 'scf_force_error': 1e-5},
    }
    found = unpack_labels(pack_labels(labels).store())
    assert list(found) == list(labels)
    for frame, values in labels.items():
        assert found[frame].keys() == values.keys(), 'nothing is made up'
        for name, value in values.items():
            np.testing.assert_array_equal(found[frame][name], value)
