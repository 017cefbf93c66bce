"""`gpus` in the options of a stage: through the campaign file and the builders to the jobs."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.common.exceptions import NotExistent
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.campaign_schema import JobOptions
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.gpu import with_device
from aiida_mlipal.workflows.train import TrainWorkChain
from tests.runners.training import copper


@pytest.fixture
def cluster_python():
    """Return a Python on a cluster with Slurm to which no job is ever sent."""
    try:
        return orm.load_code('python@gpu-cluster')
    except NotExistent:
        computer = orm.Computer(
            label='gpu-cluster', hostname='localhost', transport_type='core.local', scheduler_type='core.slurm',
            workdir='/tmp/never',
        ).store()  # fmt: skip
        return orm.InstalledCode(
            label='python', computer=computer, filepath_executable='/usr/bin/python3', with_mpi=False
        ).store()


@pytest.fixture
def build(silicon, cluster_python):
    """Return a function that builds a campaign of the engine `ase`, with job options by stage."""

    def factory(calculator=None, **options):
        overrides = {'label': {'parameters': calculator or {'calculator': 'lj'}}}
        overrides |= {'exploration': options.pop('exploration', {}), 'training': options.pop('training', {})}
        return ActiveLearningWorkChain.get_builder_from_protocol(
            silicon,
            {'label': cluster_python, 'train': cluster_python},
            protocol='fast', engine='ase', overrides=overrides, options=options,
        )  # fmt: skip

    return factory


def test_campaign_file_knows_gpus():
    options = JobOptions(gpus=1, gpu_type='a100', queue_name='gpu')
    assert options.as_metadata() == {'gpus': 1, 'gpu_type': 'a100', 'queue_name': 'gpu'}


def test_stages_with_gpus_run_on_them(build):
    """Options reach the jobs of each stage, those of evaluation and properties alike, and the device follows."""
    gpu = {'gpus': 1, 'gpu_type': 'a100', 'queue_name': 'gpu'}
    builder = build(train={**gpu, 'gpus': 2}, evaluate=gpu)
    assert builder.train.mace.metadata.options.gpus == 2
    assert builder.train.mace.metadata.options.gpu_type == 'a100'
    assert builder.training['device'] == 'cuda'
    for stage in ('evaluate', 'properties'):
        assert builder[stage].metadata.options.gpus == 1
        assert builder[stage].settings['device'] == 'cuda'
    assert 'gpus' not in builder.explore.mace.metadata.options
    assert 'device' not in builder.exploration.get_dict()
    assert ActiveLearningWorkChain.spec().inputs.validate(builder._inputs(prune=True)) is None


def test_a_device_that_was_named_stays(build):
    assert with_device({'device': 'cpu'}, {'gpus': 1}) == {'device': 'cpu'}
    builder = build(exploration={'device': 'cuda'}, explore={'custom_scheduler_commands': '#SBATCH --gpus=1'})
    assert builder.exploration['device'] == builder.evaluate.settings['device'] == 'cuda'


def test_a_model_labels_on_a_gpu(build):
    """The device of a calculator is no part of its level of theory."""
    mace = {'calculator': 'mace', 'parameters': {'model_paths': ['/path/of/a.model']}}
    plain, on_gpu = (build(mace, label=options).label.engine_inputs for options in ({}, {'gpus': 1}))
    assert 'device' not in plain['settings']['parameters']
    assert on_gpu['settings']['parameters']['device'] == 'cuda'
    assert on_gpu['options']['gpus'] == 1
    engine = load_engine('ase')
    assert engine.level_of_theory(on_gpu) == engine.level_of_theory(plain)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train': {'gpus': 3}}, 'stage `train`: `gpus` is 3, but 2 of the 4 members are trained at the same time'),
        (
            {'train': {'gpus': 1}, 'training': {'gpus_per_member': 2}},
            r'each member is trained on 2 \(`gpus_per_member`\): set `gpus: 2` or `gpus_per_member: 1`',
        ),
        (
            {'train': {'gpus': 8}, 'training': {'gpus_per_member': 2}},
            'each on 2 GPUs: set `gpus: 4`, or raise `max_parallel`',
        ),
        ({'explore': {'gpus': 2}}, 'stage `explore`: `gpus` is 2, but this job runs on one'),
        (
            {'train': {'gpus': 1, 'custom_scheduler_commands': '#SBATCH --gres=gpu:1'}},
            'stage `train`: GPUs are asked for twice',
        ),
        ({'explore': {'gpus': 1}, 'exploration': {'device': 'cpu'}}, '`device` is `cpu`: set `device: cuda`'),
        ({'evaluate': {'gpu_type': 'a100'}}, 'stage `evaluate`: `gpu_type` says nothing without a number'),
    ],
)
def test_what_a_campaign_refuses(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.codes
def test_pw_is_not_ours(silicon, pw_code, cluster_python, pseudo_family):
    with pytest.raises(ValueError, match=r'`label`: `quantumespresso.pw` comes from another package'):
        ActiveLearningWorkChain.get_builder_from_protocol(
            silicon,
            {'label': pw_code, 'train': cluster_python},
            protocol='fast',
            overrides={'label': {'pseudo_family': pseudo_family}},
            options={'label': {'gpus': 1}},
        )


def test_training_alone(cluster_python):
    builder = TrainWorkChain.get_builder_from_protocol(
        cluster_python, ConfigurationsData(copper()), protocol='fast', options={'gpus': 1}
    )
    assert builder.settings['device'] == 'cuda'
    assert builder.mace.metadata.options.gpus == 1
    with pytest.raises(ValueError, match='set `gpus: 2`'):
        TrainWorkChain.get_builder_from_protocol(
            cluster_python, ConfigurationsData(copper()), protocol='fast', options={'gpus': 4}
        )


def test_several_gpus_for_one_member(cluster_python):
    builder = TrainWorkChain.get_builder_from_protocol(
        cluster_python,
        ConfigurationsData(copper()),
        protocol='fast',
        overrides={'gpus_per_member': 2, 'n_members': 2, 'max_parallel': 1},
        options={'gpus': 2},
    )
    assert builder.settings['device'] == 'cuda'
    assert TrainWorkChain.spec().inputs.validate(builder._inputs(prune=True)) is None
    process = instantiate_process(get_manager().get_runner(), builder)
    process.setup()
    process.prepare_process()
    assert process.ctx.inputs['metadata']['options']['gpus'] == 2
    builder.settings = orm.Dict({**builder.settings.get_dict(), 'gpus_per_member': 8})
    builder.mace.metadata.options.gpus = 8
    problem = TrainWorkChain.spec().inputs.validate(builder._inputs(prune=True))
    assert '`gpus_per_member` is 8, but of' in problem.message
    assert 'each GPU needs one of both: set it to' in problem.message


def test_one_failed_member_asks_for_one_gpu(cluster_python):
    """Members that failed are trained again alone, on as many GPUs as they can use."""
    builder = TrainWorkChain.get_builder_from_protocol(
        cluster_python, ConfigurationsData(copper()), protocol='fast', options={'gpus': 2}
    )
    process = instantiate_process(get_manager().get_runner(), builder)
    process.setup()
    process.prepare_process()
    assert process.ctx.inputs['metadata']['options']['gpus'] == 2
    process.ctx.settings = orm.Dict({**builder.settings.get_dict(), 'seeds': [3]})
    process.prepare_process()
    assert process.ctx.inputs['metadata']['options']['gpus'] == 1
    assert process.ctx.inputs['metadata']['options']['max_wallclock_seconds'] == 86400
