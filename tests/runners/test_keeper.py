"""What is kept of an exploration, and one that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.runners.keeper import Keeper, pack, unpack
from aiida_mlipal.runners.trajectory import Frame, Replica, Trajectory
from aiida_mlipal.science.configurations import Configurations
from tests.committee import copper

#: Two plans, the second with a cell that moves, more replicas than move together, one that cannot begin.
SETTINGS = {
    'seed': 3, 'n_steps': 60, 'stride': 5, 'n_replicas_per_temperature': 3, 'temperatures': [300.0, 1200.0],
    'n_stream': 4, 'batch_atoms': 12, 'dtype': 'float64',
    'plans': [{'kind': 'dynamics'}, {'kind': 'dynamics', 'name': 'squeezed', 'ensemble': 'npt', 'pressures': [2.0]}],
}  # fmt: skip


def test_trajectories_survive_the_file(tmp_path):
    rng = np.random.default_rng(0)

    def frame(n_atoms: int, step: int, mark: str = '') -> Frame:
        return Frame(step=step, positions=rng.normal(size=(n_atoms, 3)), cell=rng.normal(size=(3, 3)), mark=mark)

    def replica(index: int, n_atoms: int) -> Replica:
        return Replica(
            index=index, numbers=rng.integers(1, 9, n_atoms), positions=rng.normal(size=(n_atoms, 3)), start=2,
            cell=np.eye(3), pbc=np.array([True, True, False]), temperature=300.0,
        )  # fmt: skip

    given = [
        Trajectory(replica=replica(0, 2), frames=[frame(2, 5), frame(2, 10, 'saddle')], n_steps=10),
        Trajectory(replica=replica(1, 3), reason='it broke', unsafe=frame(3, 5), n_steps=5),
        Trajectory(replica=replica(2, 1), reason='no step'),
    ]
    keeper = Keeper(tmp_path / 'folder' / '00.npz')
    assert keeper.load() is None
    keeper.save(pack(given))
    assert keeper.finished() is None
    keeper.notes['batch_atoms'] = np.int64(7)
    keeper.finish(given)
    again = Keeper(tmp_path / 'folder' / '00.npz')
    found = again.finished()
    assert again.notes == {'batch_atoms': 7}
    assert found is not None
    for one, other in zip(given, found, strict=True):
        assert (one.reason, one.n_steps, one.replica.index) == (other.reason, other.n_steps, other.replica.index)
        np.testing.assert_array_equal(one.replica.positions, other.replica.positions)
        np.testing.assert_array_equal(one.replica.pbc, other.replica.pbc)
        pairs = [*zip(one.frames, other.frames, strict=True), (one.unsafe, other.unsafe)]
        for first, second in pairs:
            assert (first is None) == (second is None)
            if first is not None and second is not None:
                assert (first.step, first.mark) == (second.step, second.mark)
                np.testing.assert_array_equal(first.positions, second.positions)
                np.testing.assert_array_equal(first.cell, second.cell)
    assert unpack(pack([])) == []


@pytest.fixture
def job(tmp_path, committee_files):
    """Return a function that starts a job in a folder, as the compute node does."""

    def start(name: str) -> subprocess.Popen[bytes]:
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            for file in committee_files:
                (folder / file.name).symlink_to(file)
            overlapping = copper(3)
            overlapping.positions[1] = overlapping.positions[0]
            Configurations.from_atoms([copper(1), overlapping, copper(2)]).save(folder / 'starts.npz')
            (folder / 'settings.json').write_text(json.dumps(SETTINGS))
            (folder / 'runner.zip').write_bytes(build('explore'))
        with (folder / 'log').open('ab') as log:
            return subprocess.Popen([sys.executable, 'runner.zip'], cwd=folder, stdout=log, stderr=log)

    return start


def test_killed_job_goes_on_to_the_last_bit(tmp_path, job):
    """Killed in the first plan and in the second; the pool is that of a job which nobody disturbed."""
    assert job('whole').wait(300) == 0
    for state in ('00.npz', '01.npz'):
        process = job('killed')
        path, begin = tmp_path / 'killed' / 'exploration' / state, time.time()
        while process.poll() is None and not (path.exists() and path.stat().st_mtime > begin):
            time.sleep(0.002)
        process.kill()
        assert process.wait(60) != 0, 'this test needs a job that is still running'
        assert not (tmp_path / 'killed' / 'result.json').exists()
    with np.load(tmp_path / 'killed' / 'exploration' / '01.npz') as file:
        assert 'notes' not in file
        assert len(file['moving'])
    assert job('killed').wait(300) == 0, (tmp_path / 'killed' / 'log').read_text()[-2000:]
    for name in ('pool.npz', 'evaluation.npz'):
        assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'killed' / name).read_bytes()
    stopped = [
        json.loads((tmp_path / name / 'result.json').read_text())['results']['stopped'] for name in ('whole', 'killed')
    ]
    assert stopped[0] == stopped[1]
    assert 'the start overlaps' in stopped[0][0]['reason']
