"""The training's CalcJob: what it refuses and what it writes. Whole runs are in ``tests/parsers``."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiida.common.folders import SandboxFolder
from aiida.engine import run
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.orm import Dict, RemoteData

from aiida_mlipal.calculations.mace_train import MaceTrainCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from tests.runners.training import copper, lennard_jones


def _builder(code, configurations, **settings):
    builder = MaceTrainCalculation.get_builder()
    builder.code = code
    builder.dataset = ConfigurationsData(configurations)
    builder.settings = Dict({'seeds': [1], **settings})
    return builder


def test_frames_of_the_random_stream_never_leave_the_house(python_code):
    """Only training frames and isolated atoms are written for the job."""
    frames = copper()
    roles = frames.role.copy()
    roles[:3] = ['test', 'calibration', 'candidate']
    frames = frames.with_columns(role=roles)
    with SandboxFolder() as folder:
        process = instantiate_process(get_manager().get_runner(), _builder(python_code, frames))
        info = process.prepare_for_submission(folder)
        assert info.local_copy_list == []
        written = Configurations.load(Path(folder.abspath) / 'dataset.npz')
    assert written.frame_id.tolist() == frames.frame_id[3:].tolist()


def test_a_dataset_without_them_travels_as_it_is_stored(python_code):
    builder = _builder(python_code, copper())
    builder.other_datasets = {'lj': ConfigurationsData(lennard_jones(), level_of_theory={'code': 'ase'})}
    builder.dataset = ConfigurationsData(copper(), level_of_theory={'code': 'emt'}).store()
    with SandboxFolder() as folder:
        info = instantiate_process(get_manager().get_runner(), builder).prepare_for_submission(folder)
        assert not list(Path(folder.abspath).glob('*.npz'))
    assert [(name, target) for _, name, target in info.local_copy_list] == [
        ('columns.npz', 'dataset.npz'),
        ('columns.npz', 'other_lj.npz'),
    ]
    assert info.local_copy_list[0][0] == builder.dataset.uuid


def test_too_few_frames(python_code):
    with pytest.raises(ValueError, match='at least 2 labelled frames with role `train`'):
        run(_builder(python_code, copper(1)))


def test_no_isolated_atom(python_code):
    frames = copper()
    with pytest.raises(ValueError, match=r"no labelled isolated atom for \['Cu'\]"):
        run(_builder(python_code, frames.take(frames.has_role('train'))))


def test_checkpoints_of_another_computer(python_code, aiida_computer_local):
    builder = _builder(python_code, copper())
    builder.previous = RemoteData(computer=aiida_computer_local(label='elsewhere'), remote_path='/tmp')
    with pytest.raises(ValueError, match='`previous` lies on the computer `elsewhere`, the code runs on `localhost`'):
        run(builder)


def test_checkpoints_are_copied_never_linked(python_code):
    """MACE removes old checkpoints: through a link, those of the job before."""
    builder = _builder(python_code, copper())
    builder.previous = RemoteData(computer=python_code.computer, remote_path='/scratch/job').store()
    with SandboxFolder() as folder:
        info = instantiate_process(get_manager().get_runner(), builder).prepare_for_submission(folder)
    assert info.remote_copy_list == [(python_code.computer.uuid, '/scratch/job/checkpoints', 'checkpoints')]
    assert not info.remote_symlink_list
