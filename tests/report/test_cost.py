"""Core and GPU time of real jobs, and of those that others have run."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.engine import ToContext, WorkChain, run_get_node

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.processes import called_by
from aiida_mlipal.report import write_report
from aiida_mlipal.report.cost import cost_per_stage
from aiida_mlipal.science.seeds import generate
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain
from aiida_mlipal.workflows.train import TrainWorkChain
from tests.report.campaign_graph import build_campaign
from tests.runners.training import TINY, copper


class Campaign(WorkChain):
    """Label with GPUs, train on the CPU."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.expose_inputs(LabelWorkChain, namespace='label')
        spec.expose_inputs(TrainWorkChain, namespace='train')
        spec.outline(cls.run_both, cls.end)

    def run_both(self):
        return ToContext(
            labels=self.submit(LabelWorkChain, **self.exposed_inputs(LabelWorkChain, 'label')),
            training=self.submit(TrainWorkChain, **self.exposed_inputs(TrainWorkChain, 'train')),
        )

    def end(self):
        """What the last step of all submits is not waited for."""


@pytest.mark.codes
def test_real_jobs_with_and_without_gpus(python_code):
    """The GPU is a pretended one: without a scheduler a job takes the lock of its name and computes where it likes."""
    gpu = f'pretended-{uuid.uuid4().hex}'
    options = {'gpus': 1, 'environment_variables': {'CUDA_VISIBLE_DEVICES': gpu}, 'withmpi': False}
    builder = Campaign.get_builder()
    frames = generate(copper().take(np.array([0])), [{'generator': 'rattle', 'n_frames': 2, 'stdev': 0.03}], 1)
    builder.label.configurations = ConfigurationsData(frames)
    builder.label.engine = orm.Str('ase')
    builder.label.engine_inputs = load_engine('ase').build(
        python_code, [], {'parameters': {'calculator': 'emt'}}, options
    )
    builder.label.reuse = orm.Bool(False)
    builder.train.dataset = ConfigurationsData(copper(), level_of_theory={'code': 'ase', 'calculator': 'emt'})
    builder.train.settings = orm.Dict({**TINY, 'seeds': [1], 'max_num_epochs': 1})
    builder.train.mace.code = python_code
    builder.train.mace.metadata.options.resources = {'num_machines': 1, 'num_mpiprocs_per_machine': 2}
    try:
        _, node = run_get_node(builder)
    finally:
        Path(f'/tmp/aiida-mlipal-gpu-{gpu}.lock').unlink(missing_ok=True)
    costs = {cost.stage: cost for cost in cost_per_stage(node.pk, called_by(node))}
    jobs = {job.process_label: job for job in node.called_descendants if isinstance(job, orm.CalcJobNode)}
    assert all(job.is_finished_ok for job in jobs.values()), [job.exit_message for job in jobs.values()]
    wall = {name: job.outputs.results['wall_s'] for name, job in jobs.items()}
    assert costs['training'].core_s == pytest.approx(2 * wall['MaceTrainCalculation'])
    assert costs['training'].core_s > 0
    assert costs['training'].gpu_s == 0
    assert costs['labels'].gpu_s == costs['labels'].core_s == pytest.approx(wall['AseLabelCalculation'])
    assert costs['labels'].gpu_s > 0


def test_the_report_shows_gpu_time_where_there_is_some(tmp_path):
    """Four GPUs on each of two machines for a training of a minute are eight GPU minutes."""

    def written(node) -> str:
        write_report(node, tmp_path / 'report.html')
        return (tmp_path / 'report.html').read_text()

    campaign = build_campaign(n_iterations=1)
    assert 'GPU time' not in written(campaign)
    job = next(node for node in campaign.called_descendants if node.process_label == 'MaceTrainCalculation')
    # As a job on two machines would have been stored; attributes of a sealed process cannot be set.
    job.backend_entity.set_attribute('gpus', 4)
    job.backend_entity.set_attribute('resources', {'num_machines': 2, 'num_mpiprocs_per_machine': 1})
    costs = {cost.stage: cost for cost in cost_per_stage(campaign.pk, called_by(campaign))}
    assert costs['training'].gpu_s == pytest.approx(8 * 60)
    assert all(cost.gpu_s == 0 for stage, cost in costs.items() if stage != 'training')
    text = written(campaign)
    assert text.count('<th class="n">GPU time</th>') == 1
    assert re.search(r'<tr><td>training</td>.*<td class="n">8\.0 min</td>', text)
