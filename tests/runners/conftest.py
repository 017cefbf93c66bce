"""The tiny committee of the tests, on disk and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.committee import trained_members, trained_silicon


@pytest.fixture(scope='session')
def committee_files(compute_python) -> list[Path]:
    """Return the files of two members."""
    return trained_members(compute_python)


@pytest.fixture(scope='session')
def committee(committee_files):
    """Return the members, loaded in double precision on the CPU."""
    import torch

    from aiida_mlipal.runners.committee import load_models

    torch.set_num_threads(1)
    return load_models(committee_files, device='cpu', dtype='float64')


@pytest.fixture(scope='session')
def silicon_model(compute_python):
    """Return a model of silicon, loaded in double precision on the CPU."""
    import torch

    from aiida_mlipal.runners.committee import load_models

    torch.set_num_threads(1)
    return load_models([trained_silicon(compute_python)], device='cpu', dtype='float64')[0]
