"""How far a training on a remote computer is: asked over a real SSH connection, to a server of the test's own."""

from __future__ import annotations

import asyncio
import getpass
import threading
from collections.abc import Iterator

import asyncssh
import pytest
from aiida import orm

from aiida_mlipal.cli.display import training_lines
from aiida_mlipal.provenance.training_progress import TrainingReader
from tests.provenance.test_training_progress import _job, _member


class Server(asyncssh.SSHServer):
    """Counts connections."""

    opened: list[str] = []

    def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
        """Count."""
        self.opened.append('connection')


async def _execute(process: asyncssh.SSHServerProcess) -> None:
    """Run what the client asks for, after a greeting as login shells print it."""
    process.stdout.write('Welcome to the cluster!\n')
    shell = await asyncio.create_subprocess_shell(
        process.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    for text, stream in zip(await shell.communicate(), (process.stdout, process.stderr), strict=True):
        stream.write(text.decode())
    process.exit(shell.returncode)


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[orm.Computer]:
    """Return a computer behind SSH."""
    monkeypatch.setattr(Server, 'opened', [])
    key = asyncssh.generate_private_key('ssh-ed25519')
    key.write_private_key(tmp_path / 'key')
    (tmp_path / 'key').chmod(0o600)
    key.write_public_key(tmp_path / 'key.pub')
    loop = asyncio.new_event_loop()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            '127.0.0.1', 0, server_factory=Server, server_host_keys=[asyncssh.generate_private_key('ssh-ed25519')],
            authorized_client_keys=str(tmp_path / 'key.pub'), process_factory=_execute, sftp_factory=True,
        )  # fmt: skip

    server = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    computer = orm.Computer(
        label=tmp_path.name, hostname='127.0.0.1', transport_type='core.ssh', scheduler_type='core.slurm',
        workdir=str(tmp_path),
    ).store()  # fmt: skip
    computer.configure(
        username=getpass.getuser(), port=server.get_port(), key_filename=str(tmp_path / 'key'), look_for_keys=False,
        allow_agent=False, load_system_host_keys=False, key_policy='AutoAddPolicy', safe_interval=30.0,
    )  # fmt: skip
    yield computer
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()


def test_one_connection_tells_of_all_trainings_of_a_cluster(cluster, tmp_path):
    """Two jobs are read over one connection, and a second look within the safe interval opens none."""
    pks = []
    for name, losses in (('a', [3.0, 1.0, 2.0]), ('b', [2.0])):
        _member(tmp_path / name, 'member_00', losses)
        pks.append(_job(cluster, tmp_path / name).pk)
    reader = TrainingReader(timeout=60)
    first, second = reader.read(pks)
    assert first.state == second.state == '', first.state
    assert [(job.members[0].epoch, job.members[0].best_loss) for job in (first, second)] == [(3, 1.0), (1, 2.0)]
    assert training_lines(first)[0] == f'training   job {first.pk} on `{cluster.label}`'
    assert '3/10 epochs, loss 2 (best 1)' in training_lines(first)[1]
    assert reader.read(pks) == [first, second]
    assert Server.opened == ['connection']


def test_a_cluster_that_turns_us_away(cluster, tmp_path):
    """The display says what to try, and waits no longer than it may."""
    cluster.configure(port=1)
    _member(tmp_path, 'member_00', [1.0])
    (job,) = TrainingReader(timeout=20).read([_job(cluster, tmp_path).pk])
    assert job.members == ()
    assert f'the computer `{cluster.label}` does not answer' in job.state
    assert f'try `verdi computer test {cluster.label}`' in job.state
