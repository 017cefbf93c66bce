"""The daemon dies while labels are computed, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import submit
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.label import LabelWorkChain
from tests.integration.conftest import kill_daemon, pw_calculations, restart_daemon, wait
from tests.workflows.conftest import quick_pw_label  # noqa: F401

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize('frames_per_job', [1, 16])
def test_labels_survive_a_killed_daemon(started_daemon_client, quick_pw_label, frames_per_job):  # noqa: F811
    """Every frame is labelled once the daemon is back, and no finished calculation was lost.

    AiiDA repeats the step in which a worker was killed. What it had submitted goes on, unless it had not begun: so each
    of the two lanes may submit one calculation twice.
    """
    rng = np.random.default_rng(11)
    frames = []
    for _ in range(6):
        atoms = bulk('Si', a=5.43)
        atoms.positions += rng.normal(scale=0.05, size=(2, 3))
        frames.append(atoms)
    configurations = ConfigurationsData(Configurations.from_atoms(frames)).store()
    inputs = {**quick_pw_label, 'reuse': orm.Bool(False), 'frames_per_job': orm.Int(frames_per_job)}
    node = submit(LabelWorkChain, configurations=configurations, **inputs)
    wait(node, lambda: pw_calculations(node) >= 3, 200)
    kill_daemon(started_daemon_client)
    assert not node.is_terminated
    restart_daemon(started_daemon_client)
    wait(node, lambda: node.is_terminated, 600)
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.labels.configurations.is_labelled.all()
    assert 6 <= pw_calculations(node) <= (8 if frames_per_job == 1 else 12)
    assert trace(node).gaps == []
