"""The state of a campaign, read from its graph."""

from __future__ import annotations

from dataclasses import replace

from aiida_mlipal.cli.display import status_text
from aiida_mlipal.provenance.label_progress import LabelCounts
from aiida_mlipal.provenance.processes import called_by
from aiida_mlipal.provenance.status import committees_of, read_status, training_sizes
from tests.report.campaign_graph import finished_campaign, running_campaign


def test_finished() -> None:
    status = read_status(finished_campaign())
    assert not status.is_active
    assert status.stages == ()
    assert status.iteration == 1
    # 10 seeds, one isolated atom, 10 and 10 labels, 7 volumes; one seed failed
    assert status.labels == LabelCounts(done=37, failed=1)
    assert status.stage_labels.total == 0
    assert status.paid_labels == status.last['n_labels'] == 30
    assert [decision['iteration'] for decision in status.decisions] == [0, 1]
    assert status.last['outcome'] == 'budget_iterations'
    assert status.failures == ()
    assert status.rejections == (('PwCalculation exited with 410: the SCF cycle did not converge', 1),)
    assert len(status.costs) == 38
    assert sum(cost.n_attempts > 1 for cost in status.costs) == 1


def test_running() -> None:
    status = read_status(running_campaign())
    assert status.is_active
    assert status.stages == ('labelling',)
    assert status.iteration == 1
    assert status.stage_labels == LabelCounts(done=2, failed=1, running=1, waiting=2)
    assert status.paid_labels == 10 + 10 + 6
    # The labelling under way counts with what its tasks say.
    assert [count for _, count in status.rejections] == [1, 1]
    assert 'PwBaseWorkChain failed' in dict(status.rejections)


def test_coverage() -> None:
    """The first iteration had no calibration to check; an alarm of the newest check is told."""
    status = read_status(finished_campaign())
    (check,) = status.coverage
    assert check['iteration'] == 1
    assert check['levels'] == finished_campaign().outputs.coverage.iteration_01['levels']
    assert status.alarms == tuple(check['messages'])
    assert replace(status, coverage=()).alarms == ()
    short = replace(status, coverage=({**check, 'messages': ['Intervals of 90% covered 1 of 8.']},))
    assert 'ALARM      Intervals of 90% covered 1 of 8.' in status_text(short)


def test_training_sizes() -> None:
    node = finished_campaign()
    sizes = training_sizes(committees_of(called_by(node)))
    frames = node.outputs.dataset.configurations
    assert list(sizes) == ['iteration_00', 'iteration_01', 'iteration_02']
    assert sizes['iteration_02'] == (frames.is_labelled & frames.has_role('train', 'validation')).sum()


def test_called_by_is_complete() -> None:
    node = finished_campaign()
    found = {process.pk for process in called_by(node)}
    assert found == {child.pk for child in node.called_descendants}
