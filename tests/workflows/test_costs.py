"""What labels cost, from real pw.x and EMT jobs, and what is left of their work folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.science.level_of_theory import digest
from aiida_mlipal.workflows.costs import measured_costs
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain
from aiida_mlipal.workflows.timing import cores_of, gpus_of

pytestmark = pytest.mark.codes


def _frames(seed: int) -> ConfigurationsData:
    """Return three silicon cells; in the second, atoms lie on top of each other and pw.x refuses it."""
    rng = np.random.default_rng(seed)
    frames = [bulk('Si', a=5.43) for _ in range(3)]
    for frame in frames:
        frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
    frames[1].positions[1] = frames[1].positions[0]
    return ConfigurationsData(Configurations.from_atoms(frames, reference_cell=bulk('Si', a=5.43).cell.array))


def _jobs(node: orm.WorkChainNode, positions: np.ndarray) -> list[orm.CalcJobNode]:
    jobs = [process for process in node.called_descendants if isinstance(process, orm.CalcJobNode)]
    return [job for job in jobs if np.allclose(job.inputs.structure.get_ase().positions, positions, atol=1e-9)]


def _folder(job: orm.CalcJobNode) -> Path:
    return Path(job.outputs.remote_folder.get_remote_path())


def test_costs_of_pw_labels(quick_pw_label):
    """Attempts and failures count, reused labels cost nothing, the model fits, and work folders are gone."""
    configurations = _frames(seed=11)
    _, node = run_get_node(LabelWorkChain, configurations=configurations, **quick_pw_label)
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.labels.configurations.status.tolist() == ['labelled', 'rejected', 'labelled']
    costs = node.outputs.costs.chunk_000.get_dict()
    frames = configurations.configurations
    assert costs['frame_ids'] == frames.frame_id.tolist()
    jobs = [_jobs(node, frames.atoms(index).positions) for index in range(3)]
    assert costs['n_attempts'] == [len(group) for group in jobs]
    for index in (0, 2):
        said = sum(job.outputs.output_parameters['wall_time_seconds'] for job in jobs[index])
        assert costs['wall_s'][index] == costs['core_s'][index] == pytest.approx(said)  # one core
        assert costs['n_electrons'][index] == 8
        assert costs['n_kpoints'][index] == np.prod(jobs[index][0].inputs.kpoints.get_kpoints_mesh()[0])
    assert costs['wall_s'][1] > 0, 'a failure costs, too'
    assert costs['n_electrons'][1] is None
    assert trace(node).gaps == []

    level = digest(node.outputs.level_of_theory.get_dict())
    model = measured_costs(level)
    assert model.n_observations >= 2
    seconds = [costs['core_s'][index] for index in (0, 2)]
    assert min(seconds) * 0.2 < model.predict(Size(8, costs['n_kpoints'][0])) < max(seconds) * 5
    assert measured_costs('of another level').n_observations == 0

    for job in (job for group in jobs for job in group):
        assert not _folder(job).exists() or not list(_folder(job).iterdir()), 'failed or not, the scratch is removed'
        kept = job.outputs.retrieved.base.repository.list_object_names()
        assert 'aiida.out' in kept, 'the repository keeps what is needed to check a label'
        assert 'aiida.in' in job.base.repository.list_object_names()

    _, again = run_get_node(LabelWorkChain, configurations=configurations, **quick_pw_label)
    repeated = again.outputs.costs.chunk_000.get_dict()
    assert repeated['frame_ids'] == [costs['frame_ids'][1]], 'only what was computed again costs again'


@pytest.mark.parametrize('clean', [True, False])
def test_work_folder_and_costs_of_an_ase_job(python_code, clean):
    """`clean_workdir` holds for the jobs that a lane runs itself; one job shares its cost among its frames."""
    rng = np.random.default_rng(5 + clean)
    frames = [bulk('Cu', cubic=True) for _ in range(2)]
    for frame in frames:
        frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
    settings = {'parameters': {'calculator': 'emt'}, 'clean_workdir': clean}
    options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
    inputs = load_engine('ase').build(python_code, [orm.StructureData(ase=frames[0])], settings, options)
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(Configurations.from_atoms(frames)),
        engine=orm.Str('ase'),
        engine_inputs=inputs,
        reuse=orm.Bool(False),
    )
    assert node.is_finished_ok, node.exit_message
    (job,) = [process for process in node.called_descendants if isinstance(process, orm.CalcJobNode)]
    assert (not _folder(job).exists() or not list(_folder(job).iterdir())) is clean
    costs = node.outputs.costs.chunk_000.get_dict()
    assert costs['n_attempts'] == [1, 1]
    assert sum(costs['wall_s']) == pytest.approx(job.outputs.results['wall_s'], rel=1e-6)
    assert trace(node).gaps == []


def test_cores_of_a_job():
    assert cores_of({'num_machines': 2, 'num_mpiprocs_per_machine': 4, 'num_cores_per_mpiproc': 3}) == 24
    assert cores_of({'num_machines': 2, 'tot_num_mpiprocs': 6}) == 6
    assert cores_of({'parallel_env': 'mpi', 'tot_num_mpiprocs': 8}) == 8
    assert cores_of({'num_machines': 1, 'num_mpiprocs_per_machine': 1, 'num_cpus': 16}) == 16  # HyperQueue
    assert cores_of({}) == 1


def test_gpus_of_a_job():
    assert gpus_of({'num_machines': 2, 'num_mpiprocs_per_machine': 4}, 4) == 8
    assert gpus_of({'parallel_env': 'mpi', 'tot_num_mpiprocs': 8}, 1) == 1
    assert gpus_of({'num_machines': 2}, None) == 0
