"""What all CalcJobs of this package share, seen at the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiida.common.folders import SandboxFolder
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.orm import Dict

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.calculations.mace_train import MaceTrainCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from tests.runners.training import copper


@pytest.fixture
def builder(python_code):
    builder = MaceTrainCalculation.get_builder()
    builder.code = python_code
    frames = copper()
    builder.dataset = ConfigurationsData(frames.with_columns(role=['test', *frames.role[1:]]))
    builder.settings = Dict({'seeds': [1, 2], 'threads': 3})
    return builder


def _prepare(builder, folder):
    process = instantiate_process(get_manager().get_runner(), builder)
    return process.prepare_for_submission(folder)


def test_files_of_a_job(builder):
    with SandboxFolder() as folder:
        info = _prepare(builder, folder)
        names = set(folder.get_content_list())
        assert names == {'runner.zip', 'settings.json', 'dataset.npz'}
        assert (Path(folder.abspath) / 'runner.zip').read_bytes() == build('train')
        assert json.loads((Path(folder.abspath) / 'settings.json').read_text()) == {'seeds': [1, 2], 'threads': 3}
    # What the dataset's node holds is not stored again; the program that runs is.
    assert info.provenance_exclude_list == ['dataset.npz']
    assert {'result.json', 'runner.log'} <= set(info.retrieve_list)


def test_command_and_environment(builder):
    with SandboxFolder() as folder:
        info = _prepare(builder, folder)
    (code,) = info.codes_info
    assert code.cmdline_params == ['runner.zip']
    assert code.stdout_name == 'runner.log'
    assert info.prepend_text.splitlines() == [
        'export OMP_NUM_THREADS=3',
        'export MKL_NUM_THREADS=3',
        'export OPENBLAS_NUM_THREADS=3',
    ]


def test_options_have_defaults(builder):
    options = MaceTrainCalculation.spec().inputs['metadata']['options']
    assert options['parser_name'].default == 'mlipal.mace.train'
    assert options['resources'].default == {'num_machines': 1, 'num_mpiprocs_per_machine': 1}
    assert options['withmpi'].default is False


def test_settings_are_checked_before_submission(builder):
    with pytest.raises(ValueError, match='Did you mean `batch_size`'):
        builder.settings = Dict({'seeds': [1], 'batchsize': 3})


def test_failures_are_never_taken_from_the_cache():
    spec = MaceTrainCalculation.spec()
    own = [code for code in spec.exit_codes.values() if code.status >= 300]
    assert len(own) >= 7
    assert all(code.invalidates_cache for code in own)
