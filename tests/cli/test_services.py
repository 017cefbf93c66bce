"""What is said of daemon and broker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aiida.brokers.zeromq.broker import ZeromqBroker

from aiida_mlipal.cli.services import probe


@pytest.fixture
def with_verdi(monkeypatch: pytest.MonkeyPatch) -> None:
    """AiiDA starts the daemon through `verdi`, which is not on the PATH of an environment that is not activated."""
    monkeypatch.setattr('aiida.engine.daemon.client.VERDI_BIN', str(Path(sys.executable).parent / 'verdi'))


def test_stopped(stopped_daemon_client) -> None:
    services = probe()
    assert not services.running
    assert services.problems == ('the daemon is not running: run `verdi daemon start`.',)


def test_running_and_stuck(with_verdi, started_daemon_client, monkeypatch: pytest.MonkeyPatch) -> None:
    services = probe()
    assert services.running
    assert services.workers >= 1
    assert services.slots >= 200
    # The state after a SIGKILL of everything, which would take minutes to bring about: AiiDA's answer is what differs.
    stuck = {'connected': True, 'pending_tasks': 12, 'processing_tasks': 0}
    monkeypatch.setattr(ZeromqBroker, 'probe_service_status', lambda self: stuck)
    assert probe().problems == ('12 tasks are pending and nobody processes them: run `verdi daemon restart`.',)
