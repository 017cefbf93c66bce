"""Explorations that are killed, or run out of memory: the WorkChain goes on from the state that they left."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.explore import ExploreWorkChain
from tests.committee import copper

#: Kills the first job when it has saved a state for the third time, as a wall time that is over; lets the second fail
#: as one whose memory ran out; lets the third alone.
HARASSED = r"""#!{python}
import json, subprocess, sys, time
from pathlib import Path
counter = Path('{counter}')
turn = len(counter.read_text()) if counter.exists() else 0
counter.write_text('x' * (turn + 1))
state = Path('exploration/00.npz')
if turn == 1:
    error = 'OutOfMemoryError: CUDA out of memory.'
    result = {{'status': 'error', 'error': error, 'kind': 'out_of_memory', 'traceback': '', 'software': {{}}}}
    Path('result.json').write_text(json.dumps(result))
    sys.exit(1)
job = subprocess.Popen([sys.executable, *sys.argv[1:]])
seen = set()
while turn == 0 and job.poll() is None:
    if state.exists():
        seen.add(state.stat().st_mtime_ns)
    if len(seen) == 3:
        job.kill()
    time.sleep(0.002)
sys.exit(job.wait())
"""
SETTINGS = {
    'seed': 3, 'n_steps': 200, 'stride': 5, 'temperatures': [300.0], 'n_replicas_per_temperature': 4, 'n_stream': 2,
    'batch_atoms': 16, 'dtype': 'float64',
}  # fmt: skip


@pytest.mark.codes
@pytest.mark.long
def test_interrupted_exploration_goes_on(aiida_localhost, tmp_path, committee_node):
    path = tmp_path / 'python.sh'
    path.write_text(HARASSED.format(python=sys.executable, counter=tmp_path / 'turns'))
    path.chmod(0o755)
    code = orm.InstalledCode(label='harassed', computer=aiida_localhost, filepath_executable=str(path), with_mpi=False)
    builder = ExploreWorkChain.get_builder()
    builder.mace.code = code.store()
    builder.mace.model = committee_node
    builder.mace.starts = ConfigurationsData(Configurations.from_atoms([copper(1), copper(2)]))
    builder.mace.settings = orm.Dict(SETTINGS)
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    jobs = sorted((item for item in node.called if isinstance(item, orm.CalcJobNode)), key=lambda item: item.pk)
    assert [job.exit_status for job in jobs] == [300, 311, 0]
    for before, after in pairwise(jobs):
        assert after.inputs.previous.uuid == before.outputs.remote_folder.uuid
    assert jobs[2].inputs.settings['batch_atoms'] == 8
    report = ' '.join(log.message for log in orm.Log.collection.get_logs_for(node))
    assert 'going on from the state that it left' in report
    assert 'memory ran out; going on with `batch_atoms` 8' in report
    assert sorted(set(outputs['pool'].configurations.step.tolist()))[-1] == 200
    assert outputs['results']['n_steps'] == 4 * 200
    assert trace(outputs['pool']).gaps == []
