"""The options `gpus` and `gpu_type`: what they become in the job scripts that AiiDA writes, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from pathlib import Path

import pytest
from aiida import orm
from aiida.common.exceptions import NotExistent
from aiida.common.folders import SandboxFolder
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.gpu import gpu_problem, request_gpus
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from tests.committee import copper
from tests.runners.training import copper as labelled_copper

SCHEDULERS = ('direct', 'lsf', 'pbspro', 'sge', 'slurm', 'torque')
#: Resources of one machine (SGE knows none) with four cores, as the user gives them.
RESOURCES = {
    'direct': {'num_machines': 1, 'num_mpiprocs_per_machine': 1},
    'lsf': {'parallel_env': '', 'tot_num_mpiprocs': 4},
    'pbspro': {'num_machines': 1, 'num_mpiprocs_per_machine': 1, 'num_cores_per_mpiproc': 4},
    'sge': {'parallel_env': 'smp', 'tot_num_mpiprocs': 4},
    'slurm': {'num_machines': 1, 'num_mpiprocs_per_machine': 1, 'num_cores_per_mpiproc': 4},
    'torque': {'num_machines': 1, 'num_mpiprocs_per_machine': 1, 'num_cores_per_mpiproc': 4},
}


@pytest.fixture
def code_on():
    """Return a function that gives a Python on a computer with a scheduler; no job is ever sent there."""

    def make(scheduler: str) -> orm.InstalledCode:
        label = f'gpu-{scheduler}'
        try:
            return orm.load_code(f'python@{label}')
        except NotExistent:
            computer = orm.Computer(
                label=label,
                hostname='localhost',
                transport_type='core.local',
                scheduler_type=f'core.{scheduler}',
                workdir='/tmp/never',
            ).store()
            return orm.InstalledCode(
                label='python', computer=computer, filepath_executable='/usr/bin/python3', with_mpi=False
            ).store()

    return make


def _builder(name: str, code: orm.InstalledCode, settings: dict, **options):
    builder = CalculationFactory(name).get_builder()
    builder.code = code
    builder.settings = orm.Dict(settings)
    if name == 'mlipal.mace.train':
        builder.dataset = ConfigurationsData(labelled_copper())
    elif name == 'mlipal.generate':
        builder.parents, builder.seed = ConfigurationsData(Configurations.from_atoms([copper(1)])), orm.Int(1)
    elif name == 'mlipal.ase.label':
        builder.configurations = ConfigurationsData(Configurations.from_atoms([copper(1)]))
    resources = RESOURCES[code.computer.scheduler_type.removeprefix('core.')]
    builder.metadata.options = {'resources': resources, 'max_wallclock_seconds': 3600, **options}
    return builder


def _script(builder) -> str:
    """Return the job script of AiiDA's own scheduler plugin, as it would be uploaded."""
    process = instantiate_process(get_manager().get_runner(), builder)
    with SandboxFolder() as folder:
        process.presubmit(folder)
        return Path(folder.abspath, '_aiidasubmit.sh').read_text(encoding='utf-8')


def _doctor(code: orm.InstalledCode, **options) -> str:
    return _script(_builder('mlipal.doctor', code, {'device': 'cuda'}, **options))


@pytest.mark.parametrize(
    ('scheduler', 'options', 'line'),
    [
        ('slurm', {'gpus': 1}, '#SBATCH --gres=gpu:1'),
        ('slurm', {'gpus': 1, 'gpu_type': 'a100'}, '#SBATCH --gres=gpu:a100:1'),
        ('pbspro', {'gpus': 1}, '#PBS -l select=1:mpiprocs=1:ncpus=4:ngpus=1'),
        ('pbspro', {'gpus': 1, 'max_memory_kb': 1024}, '#PBS -l select=1:mpiprocs=1:ncpus=4:mem=1024kb:ngpus=1'),
        ('pbspro', {'gpus': 1, 'gpu_type': 'a100'}, '#PBS -l select=1:mpiprocs=1:ncpus=4:ngpus=1:gpu_type=a100'),
        ('torque', {'gpus': 1}, '#PBS -l nodes=1:ppn=4:gpus=1,walltime=01:00:00'),
        ('lsf', {'gpus': 1}, '#BSUB -gpu "num=1:j_exclusive=yes"'),
        ('lsf', {'gpus': 1, 'gpu_type': 'TeslaV100'}, '#BSUB -gpu "num=1:j_exclusive=yes:gmodel=TeslaV100"'),
        ('sge', {'gpus': 1}, '#$ -l gpu=1'),
        ('sge', {'gpus': 1, 'gpu_type': 'a100'}, '#$ -l gpu=1,gpu_type=a100'),
    ],
)
def test_directive_of_each_scheduler(code_on, scheduler, options, line):
    """The script is AiiDA's with one line more, or one line longer; cores, memory and the user's lines stay."""
    code, mark = code_on(scheduler), {'custom_scheduler_commands': '# a line of the user'}
    plain = _doctor(code, **mark, **{name: value for name, value in options.items() if 'gpu' not in name})
    script = _doctor(code, **mark, **options)
    before, after = plain.splitlines(), script.splitlines()
    name = re.compile(r'aiida-\w+')  # the job's name holds its PK
    added = [entry for entry in after if name.sub('', entry) not in [name.sub('', entry) for entry in before]]
    assert added == [line]
    gone = [entry for entry in before if name.sub('', entry) not in [name.sub('', entry) for entry in after]]
    assert all(line.startswith(entry[:10]) for entry in gone)
    assert len(gone) == (scheduler in ('pbspro', 'torque'))
    assert after[0].startswith('#!')
    # Schedulers stop reading at the first command.
    first_command = next(number for number, text in enumerate(after) if text and not text.startswith('#'))
    assert after.index(line) < first_command
    assert '# a line of the user' in after


def test_without_gpus_the_script_is_that_of_aiida(code_on):
    script = _script(_builder('mlipal.doctor', code_on('slurm'), {}))
    assert 'gpu' not in script.lower().replace('gpu-slurm', '')


def test_without_scheduler_the_runner_is_told_to_lock(code_on):
    script = _doctor(code_on('direct'), gpus=1)
    assert 'export MLIPAL_EXCLUSIVE_GPUS=1' in script
    assert script.index('MLIPAL_EXCLUSIVE_GPUS') < script.index('runner.zip')
    assert 'MLIPAL_EXCLUSIVE_GPUS' not in _doctor(code_on('slurm'), gpus=1)


CUDA = {'seeds': [1, 2, 3], 'device': 'cuda', 'max_parallel': 2}


@pytest.mark.parametrize(
    ('name', 'scheduler', 'settings', 'options', 'message'),
    [
        ('mlipal.doctor', 'slurm', {'device': 'cuda'}, {'gpus': 0}, '`gpus` must be at least 1, got 0'),
        ('mlipal.doctor', 'slurm', {'device': 'cuda'}, {'gpus': 2}, 'this job runs on one: set `gpus: 1`'),
        ('mlipal.doctor', 'slurm', {}, {'gpus': 1}, '`device` is `cpu`: set `device: cuda`'),
        ('mlipal.doctor', 'slurm', {'device': 'cuda:1'}, {'gpus': 1}, '`device` is `cuda:1`: set `device: cuda`'),
        ('mlipal.doctor', 'slurm', {}, {'gpu_type': 'a100'}, 'says nothing without a number; add `gpus: 1`'),
        (
            'mlipal.doctor', 'slurm', {'device': 'cuda'}, {'gpus': 1, 'gpu_type': 'a100\n#SBATCH --exclusive'},
            'must be the one word',
        ),
        (
            'mlipal.doctor', 'slurm', {'device': 'cuda'},
            {'gpus': 1, 'custom_scheduler_commands': '#SBATCH -C v100\n#SBATCH --gpus=2'},
            'asked for twice, by `gpus` and by `#SBATCH --gpus=2`',
        ),
        ('mlipal.doctor', 'direct', {'device': 'cuda'}, {'gpus': 1, 'gpu_type': 'a100'}, 'needs a scheduler'),
        ('mlipal.generate', 'slurm', {'recipe': [{'generator': 'unchanged'}]}, {'gpus': 1}, 'cannot use a GPU'),
        ('mlipal.mace.train', 'slurm', CUDA, {'gpus': 3}, '2 of the 3 members are trained at the same time'),
        ('mlipal.mace.train', 'slurm', {'seeds': [1]}, {'gpus': 1}, '`device` is `cpu`'),
        ('mlipal.ase.label', 'slurm', {'calculator': 'mace'}, {'gpus': 1}, 'add `device: cuda` to its `parameters`'),
        ('mlipal.ase.label', 'slurm', {'calculator': 'emt'}, {'gpus': 2}, 'one frame after the other: set `gpus: 1`'),
    ],
)  # fmt: skip
def test_what_is_refused(code_on, name, scheduler, settings, options, message):
    """Before anything is submitted, with what to do."""
    with pytest.raises(ValueError, match=re.escape(message)):
        instantiate_process(get_manager().get_runner(), _builder(name, code_on(scheduler), settings, **options))


def test_training_takes_a_gpu_for_each_member_at_work(code_on):
    script = _script(_builder('mlipal.mace.train', code_on('slurm'), CUDA, gpus=2))
    assert '#SBATCH --gres=gpu:2' in script


def test_unknown_scheduler():
    problem = gpu_problem({'gpus': 1}, 'hyperqueue')
    assert 'how to ask `hyperqueue` for GPUs is not known' in problem
    assert '`custom_scheduler_commands`' in problem
    with pytest.raises(ValueError, match='is not known here'):
        request_gpus('#!/bin/bash\n', {'gpus': 1}, 'hyperqueue')


def test_a_script_that_aiida_writes_otherwise_is_not_sent():
    with pytest.raises(ValueError, match='has no line'):
        request_gpus('#!/bin/bash\n#PBS -l ncpus=4\n', {'gpus': 1}, 'core.pbspro')


def test_resources_are_held_against_the_scheduler(code_on):
    """AiiDA's own check of the inputs is still there."""
    builder = _builder('mlipal.ase.label', code_on('slurm'), {'calculator': 'emt'})
    builder.metadata.options.resources = {'num_machine': 1}
    with pytest.raises(ValueError, match='num_machine'):
        instantiate_process(get_manager().get_runner(), builder)


#: A calculator that takes four seconds, and writes down from when to when.
_SLOW = """
import json
import time

from ase.calculators.emt import EMT


class Slow(EMT):
    def calculate(self, *arguments, **keywords):
        start = time.monotonic()
        super().calculate(*arguments, **keywords)
        time.sleep(4)
        with open(__file__ + '.jsonl', 'a') as log:
            log.write(json.dumps([start, time.monotonic()]) + chr(10))
"""


@pytest.mark.codes
@pytest.mark.parametrize('n_gpus', [1, 2])
def test_jobs_without_a_scheduler_share_no_gpu(python_code, tmp_path, n_gpus):
    """Two jobs start at once; with one GPU the second waits for the first, with two they run side by side."""
    (tmp_path / 'slow.py').write_text(_SLOW, encoding='utf-8')
    gpus = [f'pretended-{uuid.uuid4().hex}' for _ in range(n_gpus)]
    runner = get_manager().get_runner()
    processes = []
    for seed in (1, 2):
        builder = CalculationFactory('mlipal.ase.label').get_builder()
        builder.code = python_code
        builder.configurations = ConfigurationsData(Configurations.from_atoms([copper(seed)]))
        builder.settings = orm.Dict({'calculator': 'slow.Slow'})
        builder.metadata.options.gpus = 1
        builder.metadata.options.environment_variables = {
            'CUDA_VISIBLE_DEVICES': ','.join(gpus),
            'PYTHONPATH': str(tmp_path),
        }
        processes.append(instantiate_process(runner, builder))
    try:
        runner.loop.run_until_complete(asyncio.gather(*(process.step_until_terminated() for process in processes)))
    finally:
        for gpu in gpus:
            Path(f'/tmp/aiida-mlipal-gpu-{gpu}.lock').unlink(missing_ok=True)
    nodes = [process.node for process in processes]
    assert all(node.is_finished_ok for node in nodes), [node.exit_message for node in nodes]
    assert all(node.get_option('gpus') == 1 for node in nodes)  # queryable
    lines = (tmp_path / 'slow.py.jsonl').read_text(encoding='utf-8').splitlines()
    (_, end), (start, _) = sorted(json.loads(line) for line in lines)
    waits = sorted(node.outputs.results['gpu_wait_s'] for node in nodes)
    assert waits[0] < 1
    assert start >= end if n_gpus == 1 else waits[1] < 1
