"""Which rung follows which failure, on nodes made by hand; the real runs are in test_label_failures."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.common.links import LinkType

from aiida_mlipal.workflows.engines.pw_ladder import next_attempt
from aiida_mlipal.workflows.engines.pw_outputs import pw_failure_reason

PARAMETERS = {'CONTROL': {}, 'SYSTEM': {'occupations': 'smearing'}, 'ELECTRONS': {'mixing_beta': 0.4}}


def _failed(computer, exit_status: int | None, files: dict[str, str] | None = None) -> tuple:
    """Return a work chain whose only job ended with ``exit_status``, and what the job left."""
    process = orm.WorkChainNode().store()
    job = orm.CalcJobNode(computer=computer, process_type='aiida.calculations:quantumespresso.pw')
    job.set_options({'resources': {'num_machines': 1}})
    job.base.links.add_incoming(process, LinkType.CALL_CALC, 'iteration_01')
    job.set_process_state('finished')
    job.set_process_label('PwCalculation')
    job.set_exit_message('as the plugin says')
    if exit_status is not None:
        job.set_exit_status(exit_status)
    job.store()
    retrieved = orm.FolderData()
    for name, content in (files or {}).items():
        retrieved.base.repository.put_object_from_bytes(content.encode(), name)
    retrieved.base.links.add_incoming(job, LinkType.CREATE, 'retrieved')
    return process, retrieved.store()


def _retry(computer, exit_status, parameters=PARAMETERS, options=None, files=None):
    process, _ = _failed(computer, exit_status, files)
    return next_attempt(process, {'parameters': orm.Dict(parameters).store()}, options or {})


def test_scf_climbs_rung_by_rung(aiida_localhost):
    parameters = {**PARAMETERS, 'SYSTEM': {'occupations': 'fixed'}}
    seen = []
    while (retry := _retry(aiida_localhost, 410, parameters)) is not None:
        node = retry.inputs['parameters']
        seen.append((node.creator.process_label, retry.reason))
        parameters = node.get_dict()
        assert len(seen) < 9
    assert [name for name, _ in seen] == ['mix_gently', 'smear_slightly', 'diagonalise_by_cg']
    assert parameters['ELECTRONS'] == {
        'mixing_beta': 0.2,
        'mixing_mode': 'local-TF',
        'electron_maxstep': 200,
        'diagonalization': 'cg',
    }
    assert parameters['SYSTEM'] == {'occupations': 'smearing', 'smearing': 'gaussian', 'degauss': 0.002}


def test_a_metal_is_not_smeared_anew(aiida_localhost):
    gentle = {**PARAMETERS, 'ELECTRONS': {'mixing_mode': 'local-TF'}}
    retry = _retry(aiida_localhost, 410, gentle)
    assert retry.inputs['parameters'].creator.process_label == 'diagonalise_by_cg'


@pytest.mark.parametrize('status', [462, 463, 464, 467])
def test_a_failed_diagonalisation_tries_conjugate_gradients_once(aiida_localhost, status):
    retry = _retry(aiida_localhost, status)
    assert retry.inputs['parameters'].get_dict()['ELECTRONS'] == {'mixing_beta': 0.4, 'diagonalization': 'cg'}
    assert _retry(aiida_localhost, status, retry.inputs['parameters'].get_dict()) is None


@pytest.mark.parametrize('status', [120, 340, 400])
def test_wall_time_is_doubled(aiida_localhost, status):
    retry = _retry(aiida_localhost, status, options={'max_wallclock_seconds': 600})
    assert (retry.options, retry.inputs) == ({'max_wallclock_seconds': 1200}, {})
    held = {**PARAMETERS, 'CONTROL': {'max_seconds': 500}}
    retry = _retry(aiida_localhost, status, held, {'max_wallclock_seconds': 600})
    assert retry.inputs['parameters'].get_dict()['CONTROL'] == {'max_seconds': 1000}
    assert _retry(aiida_localhost, status) is None, 'nothing says how long it was'


def test_memory_is_doubled_and_saved(aiida_localhost):
    retry = _retry(aiida_localhost, 110, options={'max_memory_kb': 1000})
    assert retry.options == {'max_memory_kb': 2000}
    assert retry.inputs['parameters'].get_dict()['ELECTRONS']['diago_david_ndim'] == 2


def test_an_interruption_is_repeated(aiida_localhost):
    for status in (140, 312, 303):
        retry = _retry(aiida_localhost, status)
        assert (retry.options, retry.inputs) == ({}, {})


@pytest.mark.parametrize(
    ('status', 'files'),
    [
        (303, {'CRASH': 'from check_atoms : error # 1'}),
        (312, {'_scheduler-stderr.txt': 'write error: No space left on device'}),
        (360, {}),
        (None, {}),
    ],
)
def test_what_would_repeat_is_left(aiida_localhost, status, files):
    assert _retry(aiida_localhost, status, files=files) is None


@pytest.mark.parametrize(
    ('status', 'files', 'reason'),
    [
        (110, {}, 'the job ran out of memory'),
        (120, {}, 'the wall time ran out'),
        (140, {}, 'the node failed'),
        (0, {}, 'the highest band stayed occupied: raise `nbnd`'),
        (312, {}, 'pw.x stopped in the middle of its output: it was killed, or the disk is full'),
        (312, {'_scheduler-stderr.txt': 'cp: Disk quota exceeded'}, 'the disk quota was used up'),
        (312, {'_scheduler-stderr.txt': 'slurmstepd: error: Detected 1 oom-kill event'}, 'the job ran out of memory'),
        (303, {'CRASH': ' task #  0\n from cdiaghg : error #  1\n info\n %'}, 'pw.x stopped in cdiaghg: info'),
        (360, {}, 'PwCalculation exited with 360: as the plugin says'),
    ],
)  # fmt: skip
def test_reasons_are_short_and_physical(aiida_localhost, status, files, reason):
    assert pw_failure_reason(_failed(aiida_localhost, status, files)[1]) == reason
