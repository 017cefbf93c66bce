"""Short labels share a job: the same labels as alone, and nothing is lost with a job that ends early."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_mlipal.calculations.pw_batch import PwBatchCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.parsers import pw_batch
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.attempts import attempts
from aiida_mlipal.workflows.label import LabelWorkChain
from aiida_mlipal.workflows.sharing import SHARED_SECONDS, how_many_fit


def _label(label: dict, seed: int, n_frames: int = 4, frames_per_job: int = 16, overlap: int | None = None):
    """Label rattled silicon in one lane; in frame ``overlap`` two atoms are on top of each other.

    Each ``seed`` has a level of theory of its own, so that nothing is known of its costs.
    """
    parameters = deepcopy(label['engine_inputs']['parameters'].get_dict())
    parameters['SYSTEM']['ecutwfc'] += seed / 1000
    label = {**label, 'engine_inputs': {**label['engine_inputs'], 'parameters': orm.Dict(parameters)}}
    rng = np.random.default_rng(seed)
    frames = [bulk('Si', a=5.43) for _ in range(n_frames)]
    for frame in frames:
        frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
    if overlap is not None:
        frames[overlap].positions[1] = frames[overlap].positions[0]
    configurations = ConfigurationsData(Configurations.from_atoms(frames, reference_cell=bulk('Si', a=5.43).cell.array))
    inputs = {**label, 'max_concurrent': orm.Int(1), 'frames_per_job': orm.Int(frames_per_job)}
    _, node = run_get_node(LabelWorkChain, configurations=configurations, reuse=orm.Bool(False), **inputs)
    assert node.is_finished_ok, node.exit_message
    (lane,) = (process for process in node.called if process.process_label == 'LabelLaneWorkChain')
    names = {task: [item.process_label for item in items] for task, items in attempts(lane).items()}
    return node, node.outputs.labels.configurations, names


ALONE, SHARED = 'PwBaseWorkChain', 'PwBatchCalculation'


@pytest.mark.codes
def test_shared_labels_are_those_of_single_jobs(quick_pw_label):
    node, shared, names = _label(quick_pw_label, 31)
    assert names == {'frame_00000': [ALONE], **{f'frame_{index:05d}': [SHARED] for index in (1, 2, 3)}}
    _, again, names = _label(quick_pw_label, 31)
    assert set(map(tuple, names.values())) == {(SHARED,)}, 'what they take is known now'
    _, alone, names = _label(quick_pw_label, 31, frames_per_job=1)
    assert set(map(tuple, names.values())) == {(ALONE,)}
    assert alone.is_labelled.all()
    for column in ('energy', 'forces', 'stress', 'scf_force_error', 'status'):
        np.testing.assert_array_equal(getattr(shared, column), getattr(alone, column), err_msg=column)
        np.testing.assert_array_equal(getattr(again, column), getattr(alone, column), err_msg=column)
    assert trace(node).gaps == []

    (job,) = (process for process in node.called_descendants if process.process_label == SHARED)
    assert job.outputs.remote_folder.is_cleaned
    costs = node.outputs.costs.chunk_000.get_dict()
    assert costs['n_attempts'] == [1, 1, 1, 1]
    assert costs['n_electrons'] == [8] * 4
    assert sum(costs['wall_s'][1:]) == pytest.approx(job.outputs.results['wall_s'])
    assert all(seconds > 0 for seconds in costs['wall_s'])


@pytest.mark.codes
def test_what_a_shared_job_leaves_undone_is_run_alone(quick_pw_label):
    """The handlers and retries see a failure, and its reason is the one that a job of its own gives."""
    node, labels, names = _label(quick_pw_label, 32, overlap=2)
    assert labels.status.tolist() == ['labelled', 'labelled', 'rejected', 'labelled']
    assert labels.reason[2] == 'atoms 1 and 2 are on top of each other'
    assert names['frame_00002'][:2] == [SHARED, ALONE]
    assert names['frame_00001'] == names['frame_00003'] == [SHARED]
    (job,) = (process for process in node.called_descendants if process.process_label == SHARED)
    assert job.exit_status == 310
    assert job.exit_message.startswith('1 of 3 calculations did not end well: ')
    assert not job.base.caching.is_valid_cache
    assert node.outputs.costs.chunk_000['n_attempts'][2] == len(names['frame_00002'])
    assert trace(node).gaps == []


@pytest.mark.codes
def test_an_output_that_breaks_the_parser_costs_the_others_nothing(quick_pw_label, monkeypatch):
    parse = pw_batch._FrameParser.parse

    def breaks(parser, **kwargs):
        if parser.node.get_option('output_filename').startswith('frame_00002'):
            raise KeyError('alat')
        return parse(parser, **kwargs)

    monkeypatch.setattr(pw_batch._FrameParser, 'parse', breaks)
    node, labels, names = _label(quick_pw_label, 34)
    assert labels.is_labelled.all()
    assert names['frame_00002'] == [SHARED, ALONE]
    assert names['frame_00001'] == names['frame_00003'] == [SHARED]
    (job,) = (process for process in node.called_descendants if process.process_label == SHARED)
    assert "its output could not be parsed, KeyError: 'alat'" in job.exit_message


@pytest.mark.codes
def test_a_shared_job_that_is_killed_keeps_what_it_has(quick_pw_label, pw_wrapped, tmp_path):
    """The third pw.x takes the whole job with it; what was done stays, the rest is run alone."""
    count = tmp_path / 'count'
    code = pw_wrapped(f'echo >> {count}\n[ $(wc -l < {count}) -eq 3 ] && kill -9 $PPID && exit 1\nexec $PW "$@"\n')
    label = {**quick_pw_label, 'engine_inputs': {**quick_pw_label['engine_inputs'], 'code': code}}
    node, labels, names = _label(label, 33)
    assert labels.is_labelled.all()
    assert names == {
        'frame_00000': [ALONE],
        'frame_00001': [SHARED],
        'frame_00002': [SHARED, ALONE],
        'frame_00003': [SHARED, ALONE],
    }
    assert trace(node).gaps == []


@pytest.mark.parametrize('frames', [[], ['frame_1'], ['frame_00001', 'frame_00001'], ['other'], [1]])
def test_frames_of_a_shared_job_are_named_each_once(frames):
    with pytest.raises(ValueError, match='expected names of frames, each once'):
        PwBatchCalculation.get_builder().metadata.options.frames = frames


@pytest.mark.parametrize(
    ('seconds', 'limit', 'expected'),
    [
        ([], None, 1),
        ([0.0, 0.0], None, 1),  # nothing is known yet
        ([1.0] * 7, None, 7),
        ([1.0] * 7, 3600, 7),
        ([1.0] * 7, 10, 5),  # half of the wall time
        ([SHARED_SECONDS], None, 1),
        ([2 * SHARED_SECONDS, 1.0], None, 1),
        ([SHARED_SECONDS / 2] * 3, math.inf, 2),
    ],
)
def test_how_many_fit(seconds, limit, expected):
    assert how_many_fit(seconds, limit) == expected
