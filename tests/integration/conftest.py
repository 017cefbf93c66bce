"""A small but real campaign: silicon, pw.x, MACE, TorchSim and a real daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest
from aiida import orm

from aiida_mlipal.workflows.attempts import shared_tasks
from tests.workflows.conftest import pseudo_family, pw_code, silicon  # noqa: F401

#: Small enough for minutes on two cores, and nothing in it is fake.
OVERRIDES = {
    'seeds': {
        'recipe': [
            {'generator': 'unchanged'},
            {'generator': 'rattle', 'n_frames': 6, 'stdev': 0.08},
            {'generator': 'isotropic_strain', 'n_frames': 3, 'min': -0.03, 'max': 0.03},
            {'generator': 'isolated_atoms'},
        ]
    },
    'label': {
        'pseudo_family': 'debian-pz',
        'kpoints_distance': 1.2,
        'kpoints_offset': [0.5, 0.5, 0.5],
        'max_concurrent': 3,
        'reuse': False,
        'parameters': {'SYSTEM': {'ecutwfc': 12.0}},
    },
    'training': {'n_members': 3, 'num_channels': 8, 'r_max': 4.0, 'max_num_epochs': 20, 'batch_size': 2},
    'exploration': {'temperatures': [300.0, 900.0], 'n_replicas_per_temperature': 2, 'n_steps': 60, 'stride': 5},
    'selection': {'n_labels': 8, 'random_share': 0.5},
    'convergence': {'n_test_frames': 2},
    'budget': {'max_iterations': 2},
    'validation': {'n_volumes': 5},
}


@pytest.fixture
def campaign_builder(silicon, pw_code, python_code, pseudo_family) -> Callable:  # noqa: F811
    """Return a function that builds the campaign, with or without the reuse of labels."""
    from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain

    def build(reuse: bool = False):
        overrides = {**OVERRIDES, 'label': {**OVERRIDES['label'], 'reuse': reuse}}
        return ActiveLearningWorkChain.get_builder_from_protocol(
            silicon, {'label': pw_code, 'train': python_code}, protocol='fast', seed=3, overrides=overrides
        )

    return build


def wait(node: orm.ProcessNode, condition: Callable[[], bool], timeout: float) -> None:
    """Wait until ``condition`` holds; fail with the campaign's report if it does not in time."""
    from aiida.cmdline.utils.common import get_workchain_report

    end = time.time() + timeout
    while not condition():
        if time.time() > end:
            pytest.fail(f'timed out after {timeout} s:\n{get_workchain_report(node, "REPORT")}')
        time.sleep(1)


def pw_calculations(campaign: orm.ProcessNode) -> int:
    """Return how many frames a campaign has given to pw.x, in jobs of their own or shared ones."""
    jobs = [node for node in campaign.called_descendants if isinstance(node, orm.CalcJobNode)]
    shared = [len(shared_tasks(node)) for node in jobs if node.process_type.endswith('mlipal.pw.batch')]
    return sum(shared) + sum(node.process_type.endswith('quantumespresso.pw') for node in jobs)


def kill_daemon(client) -> None:
    """Kill daemon, broker and workers with SIGKILL; the calculations that run go on."""
    daemon = psutil.Process(client.get_daemon_pid())
    victims = [process for process in (*daemon.children(recursive=True), daemon) if 'pw.x' not in process.name()]
    for process in victims:
        if process.is_running():
            os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(victims, timeout=10)


def restart_daemon(client) -> None:
    """Start the daemon after a SIGKILL: the first start leaves the old tasks pending, a clean restart takes them up."""
    verdi = [client._verdi_bin, '-p', client.profile.name, 'daemon']
    subprocess.run([*verdi, 'start', '--timeout', '60'], check=True, timeout=120)
    for _ in range(10):  # a daemon that has just started may not answer yet, or stop only after it was given up
        time.sleep(3)
        command = ['restart'] if client.is_daemon_running else ['start', '--timeout', '60']
        if subprocess.run([*verdi, *command], check=False, timeout=120).returncode == 0:
            return
    pytest.fail('the daemon could not be restarted')
