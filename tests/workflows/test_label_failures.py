"""Labels that fail: every attempt is visible, every failure a row with its reason, and nothing else is lost."""

from __future__ import annotations

import re
from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching
from aiida.plugins import WorkflowFactory
from ase.build import bulk

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.level_of_theory import digest
from aiida_mlipal.workflows.attempts import attempts
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain
from tests.workflows.conftest import rattled_silicon

pytestmark = pytest.mark.codes


def _changed(label: dict, *, max_attempts: int = 3, **namelists: dict) -> dict:
    """Return the ``label`` inputs with other keywords, and a ``PwBaseWorkChain`` that gives up at once."""
    inputs = dict(label['engine_inputs'])
    parameters = deepcopy(inputs['parameters'].get_dict())
    for namelist, values in namelists.items():
        parameters[namelist] |= values
    inputs.update(parameters=orm.Dict(parameters), max_iterations=orm.Int(1))
    return {**label, 'engine_inputs': inputs, 'max_attempts': orm.Int(max_attempts), 'reuse': orm.Bool(False)}


def _run(frames: list, label: dict) -> tuple[Configurations, orm.WorkChainNode]:
    configurations = ConfigurationsData(Configurations.from_atoms(frames, reference_cell=bulk('Si', a=5.43).cell.array))
    _, node = run_get_node(LabelWorkChain, configurations=configurations, **label)
    assert node.is_finished, node.exception
    return node.outputs.labels.configurations, node


def _attempts(node: orm.WorkChainNode) -> dict[str, orm.CalcJobNode]:
    """Return the last job of every attempt, by what the lane calls it."""
    found = {}
    for lane in node.called:
        if lane.process_label == 'LabelLaneWorkChain':
            calls = lane.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all()
            for call in sorted(calls, key=lambda call: call.node.pk):
                jobs = [job for job in call.node.called if isinstance(job, orm.CalcJobNode)]
                found[call.link_label] = max(jobs, key=lambda job: job.pk)
    return found


def _report(node: orm.WorkChainNode) -> str:
    """Return what the lanes reported."""
    lanes = [process for process in node.called if process.process_label == 'LabelLaneWorkChain']
    return '\n'.join(log.message for lane in lanes for log in orm.Log.collection.get_logs_for(lane))


def _keyword(job: orm.CalcJobNode, namelist: str, keyword: str):
    return job.inputs.parameters.get_dict()[namelist].get(keyword)


def test_an_scf_that_needs_more_steps_gets_them(quick_pw_label):
    """Two steps are too few; the second attempt mixes gently, has enough, and is the same level of theory."""
    label = _changed(quick_pw_label, ELECTRONS={'electron_maxstep': 2})
    labels, node = _run(rattled_silicon(1, 11), label)
    assert labels.is_labelled.all(), labels.reason
    attempts = _attempts(node)
    assert sorted(attempts) == ['frame_00000', 'frame_00000_attempt_2']
    assert _keyword(attempts['frame_00000_attempt_2'], 'ELECTRONS', 'mixing_mode') == 'local-TF'
    report = _report(node)
    assert re.search(r'frame_00000: PwBaseWorkChain<\d+> failed: ', report), report
    assert 'frame_00000: attempt 2: the SCF did not converge: gentler mixing' in report
    assert node.outputs.costs.chunk_000['n_attempts'] == [2]
    untouched = load_engine('quantumespresso').level_of_theory(quick_pw_label['engine_inputs'])
    assert digest(node.outputs.level_of_theory.get_dict()) == digest(untouched)
    assert trace(node).gaps == []

    plain, _ = _run(rattled_silicon(1, 11), _changed(quick_pw_label))
    assert labels.energy[0] == pytest.approx(plain.energy[0], abs=1e-5)


@pytest.mark.long
def test_an_insulator_that_never_converges_climbs_all_rungs(quick_pw_label):
    system = {'occupations': 'fixed', 'smearing': 'gaussian', 'degauss': 0.0}
    label = _changed(
        quick_pw_label, max_attempts=9, SYSTEM=system, ELECTRONS={'conv_thr': 1e-60, 'electron_maxstep': 30}
    )
    labels, node = _run(rattled_silicon(1, 12), label)
    assert node.exit_status == 410
    assert labels.reason.tolist() == ['the SCF did not converge in 200 steps']
    attempts = _attempts(node)
    names = ['frame_00000', *(f'frame_00000_attempt_{number}' for number in (2, 3, 4))]
    assert list(attempts) == names
    assert [_keyword(attempts[name], 'ELECTRONS', 'mixing_mode') for name in names] == [None, *['local-TF'] * 3]
    assert [_keyword(attempts[name], 'SYSTEM', 'occupations') for name in names] == [*['fixed'] * 2, *['smearing'] * 2]
    assert [_keyword(attempts[name], 'ELECTRONS', 'diagonalization') for name in names] == [None, None, None, 'cg']


def test_out_of_time_gets_twice_as_much(quick_pw_label):
    """pw.x stops by itself shortly before the limit of the job; here that is a second, and the frame takes longer."""
    label = _changed(quick_pw_label, max_attempts=9, SYSTEM={'ecutwfc': 20.0}, ELECTRONS={'conv_thr': 1e-10})
    label['engine_inputs']['kpoints_distance'] = orm.Float(0.8)
    options = {**label['engine_inputs']['options'].get_dict(), 'max_wallclock_seconds': 1}
    label['engine_inputs']['options'] = orm.Dict(options)
    labels, node = _run(rattled_silicon(1, 13), label)
    assert labels.is_labelled.all(), labels.reason
    limits = [job.get_option('max_wallclock_seconds') for job in _attempts(node).values()]
    assert len(limits) > 1
    assert limits == [2**number for number in range(len(limits))]


def test_a_killed_run_is_repeated(quick_pw_label, pw_wrapped, tmp_path):
    flag = tmp_path / 'killed-once'
    code = pw_wrapped(f'[ -e {flag} ] && exec $PW "$@"\ntouch {flag}\nkill -9 $$\n')
    label = _changed(quick_pw_label)
    label['engine_inputs']['code'] = code
    with enable_caching():  # the failed attempt has the same inputs, and must not be taken for the result
        labels, node = _run(rattled_silicon(1, 14), label)
    assert labels.is_labelled.all(), labels.reason
    assert list(_attempts(node)) == ['frame_00000', 'frame_00000_attempt_2']
    assert trace(node).gaps == []


@pytest.mark.parametrize(('degauss', 'status'), [(0.002, 'labelled'), (0.05, 'rejected')])
def test_smearing_helps_an_insulator_only_where_it_changes_nothing(quick_pw_label, degauss, status):
    """The label of fixed occupations may come from a smeared run if the smearing energy is next to nothing."""
    engine = load_engine('quantumespresso')
    fixed = _changed(quick_pw_label, SYSTEM={'occupations': 'fixed'})['engine_inputs']
    smeared = _changed(quick_pw_label, SYSTEM={'smearing': 'gaussian', 'degauss': degauss})['engine_inputs']
    frames = ConfigurationsData(Configurations.from_atoms(rattled_silicon(1, 15))).store()
    for value in (*fixed.values(), *smeared.values()):
        if isinstance(value, orm.Data):
            value.store()
    task = engine.alone(frame_key(0), engine.tasks(frames, smeared)[frame_key(0)].inputs, smeared)
    process, inputs = engine.process(task, smeared, smeared['options'].get_dict())
    assert process is WorkflowFactory('quantumespresso.pw.base')
    _, node = run_get_node(process, **inputs)
    chunk = engine.collect(frames, engine.describe(fixed), {frame_key(0): engine.result(node)}).configurations
    assert chunk.status.tolist() == [status]
    if status == 'rejected':
        assert 'the SCF converged only with smearing, which changes the energy by' in chunk.reason[0]
    chunk = engine.collect(frames, engine.describe(smeared), {frame_key(0): engine.result(node)}).configurations
    assert chunk.status.tolist() == ['labelled'], (
        'where smearing belongs to the level of theory, there is nothing to ask'
    )


#: Some frames meet misfortune by their first x coordinate, which the script finds in the input.
_MISFORTUNES = """
INPUT="${@: -1}"
grep -q 'Si  *0.0300000000' "$INPUT" && sed -i 's/electron_maxstep = .*/electron_maxstep = 2/' "$INPUT"
grep -q 'Si  *0.0310000000' "$INPUT" && kill -9 $$
grep -q 'Si  *0.0320000000' "$INPUT" && { printf x > /dev/full; exec $PW "$@" > /dev/full; }
exec $PW "$@"
"""


@pytest.mark.long
def test_forty_frames_of_which_eight_fail(quick_pw_label, pw_wrapped, pw_code):
    """The others are labelled; a rerun with a sound pw.x repeats the eight alone, and only the hopeless ones stay."""
    frames = rattled_silicon(40, 16)
    overlapping, unconverged, killed, disk = (3, 30), (7, 8), (0, 39), (12, 13)
    for index in overlapping:
        frames[index].positions[1] = frames[index].positions[0]
    for rows, x in ((unconverged, 0.030), (killed, 0.031), (disk, 0.032)):
        for index in rows:
            frames[index].positions[0, 0] = x
    label = _changed(quick_pw_label, ELECTRONS={'electron_maxstep': 80})
    label['reuse'] = orm.Bool(True)
    label['engine_inputs']['code'] = pw_wrapped(_MISFORTUNES)
    labels, node = _run(frames, label)
    assert node.is_finished_ok, node.exit_message
    assert Counter(labels.reason.tolist()) == {
        '': 32,
        'atoms 1 and 2 are on top of each other': 2,
        'the SCF did not converge in 2 steps': 2,
        'pw.x was killed': 2,
        'no space was left on the device': 2,
    }
    failed = sorted(overlapping + unconverged + killed + disk)
    assert np.flatnonzero(~labels.is_labelled).tolist() == failed
    assert labels.reason[[*killed]].tolist() == ['pw.x was killed'] * 2
    assert labels.reason[[*disk]].tolist() == ['no space was left on the device'] * 2
    tries = Counter(name.split('_attempt_')[0] for name in _attempts(node))  # alone, after a shared job or without one
    assert {tries[frame_key(index)] for index in (*overlapping, *disk)} == {1}
    assert {tries[frame_key(index)] for index in (*unconverged, *killed)} == {3}
    assert all(number <= 1 for task, number in tries.items() if labels.is_labelled[int(task[-5:])])
    assert trace(node).gaps == []

    label['engine_inputs']['code'] = pw_code
    again, repeated = _run(frames, label)
    lanes = [process for process in repeated.called if process.process_label == 'LabelLaneWorkChain']
    assert sum(len(attempts(lane)) for lane in lanes) == len(failed)
    assert np.flatnonzero(~again.is_labelled).tolist() == sorted(overlapping)
    kept = labels.is_labelled
    np.testing.assert_array_equal(again.energy[kept], labels.energy[kept])
