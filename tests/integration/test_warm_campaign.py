"""A campaign whose models go on: which frames reach MACE's files, and that nothing is reshuffled on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk
from ase.io import read

from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.fingerprint import fingerprints
from aiida_mlipal.science.stream import STREAM, repeats_of_stream
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(1800)]

OVERRIDES = {
    'seeds': {'recipe': [{'generator': 'rattle', 'n_frames': 10, 'stdev': 0.08}, {'generator': 'isolated_atoms'}]},
    'label': {'parameters': {'calculator': 'emt'}, 'reuse': False},
    'training': {'n_members': 2, 'num_channels': 4, 'r_max': 4.0, 'max_num_epochs': 10, 'batch_size': 4, 'max_ell': 1},
    'warm_start': {'every': 3, 'epochs': 0.3, 'replay': 0.3, 'hard': 0.1, 'weight': 2},
    # A thermostat that moves little and a wide definition of a duplicate: the stream has near-duplicates.
    'exploration': {'temperatures': [300.0], 'n_replicas_per_temperature': 2, 'n_steps': 60, 'stride': 5},
    'selection': {'n_labels': 8, 'random_share': 0.5, 'duplicate_distance': 0.3},
    'convergence': {'n_test_frames': 2},
    'budget': {'max_iterations': 2},
    'validation': {'eos': False},
}  # fmt: skip


@pytest.fixture(scope='module')
def finished() -> dict[str, orm.WorkChainNode]:
    return {}


@pytest.fixture
def campaign(finished, python_code):
    if not finished:
        builder = ActiveLearningWorkChain.get_builder_from_protocol(
            orm.StructureData(ase=bulk('Cu', a=3.6, cubic=True)),
            {'label': python_code, 'train': python_code},
            protocol='fast',
            engine='ase',
            overrides=OVERRIDES,
        )
        finished['node'] = run_get_node(builder)[1]
    return finished['node']


def _jobs(campaign):
    jobs = [node for node in campaign.called_descendants if node.process_label == 'MaceTrainCalculation']
    return sorted(jobs, key=lambda job: job.pk)


def test_the_model_goes_on_in_between_and_begins_anew_at_the_end(campaign):
    assert campaign.is_finished_ok, campaign.exit_message
    first, second, last = _jobs(campaign)
    models = campaign.outputs.models
    assert ['start' in job.inputs for job in (first, second, last)] == [False, True, False]
    assert second.inputs.start.uuid == models['iteration_00'].uuid
    assert models['iteration_01'].seeds == models['iteration_00'].seeds
    assert not set(models['iteration_02'].seeds) & set(models['iteration_00'].seeds)
    assert second.inputs.settings['max_num_epochs'] == 3
    assert second.inputs.copies.creator.process_label == 'plan_warm_start'
    assert trace(campaign).gaps == []
    assert trace(campaign.outputs.model).gaps == []


def test_no_frame_changes_its_role(campaign):
    record: dict[str, str] = {}
    for job in _jobs(campaign):
        frames = job.inputs.dataset.configurations
        roles = dict(zip(frames.frame_id.tolist(), frames.role.tolist(), strict=True))
        changed = {frame: (role, roles[frame]) for frame, role in record.items() if roles[frame] != role}
        assert {after for _, after in changed.values()} <= {'withheld'}, changed
        record = roles
        valid = sorted(frames.frame_id[frames.is_labelled & frames.has_role('validation')].tolist())
        assert sorted(job.outputs.results['valid_frame_ids']) == valid
        assert len(valid) >= 3
    assert set(record.values()) >= {'train', 'validation', 'calibration', 'test', 'isolated_atom'}


def test_neither_the_stream_nor_its_repeats_reach_a_training_file(campaign):
    """Judged by what MACE read, and by descriptors that none of the models made."""
    for job in _jobs(campaign):
        frames = job.inputs.dataset.configurations
        stream = frames.take(frames.has_role(*STREAM)).to_atoms()
        for name in ('train.xyz', 'valid.xyz'):
            written = read(Path(job.outputs.remote_folder.get_remote_path(), name), ':')
            assert written
            for atoms in written:
                assert not any(np.allclose(atoms.positions, other.positions, atol=1e-6) for other in stream)
                assert atoms.info['role'] in ('train', 'validation')
            if stream:
                both = frames.from_atoms([*stream, *written])
                table = fingerprints(both)
                mask = np.arange(len(both)) < len(stream)
                assert not repeats_of_stream(table, mask, 1e-3).any()
