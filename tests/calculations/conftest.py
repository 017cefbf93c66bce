"""A node with the tiny committee of the tests."""

from __future__ import annotations

import pytest

from tests.committee import trained_members


@pytest.fixture
def committee_node(compute_python):
    """Return a stored committee of two members."""
    from aiida_mlipal.data.model import MlipModelData

    metadata = {
        'elements': ['Cu'], 'r_max': 4.0, 'dtype': 'float64', 'seeds': [0, 1], 'level_of_theory_hash': '',
        'software': {}, 'errors': {}, 'settings_hash': '',
    }  # fmt: skip
    return MlipModelData(trained_members(compute_python), metadata=metadata).store()
