"""Reasons of rejected labels, grouped, and what labels cost."""

from __future__ import annotations

import pytest

from aiida_mlipal.provenance.labels import group_reasons, label_costs, rejected_labels
from aiida_mlipal.provenance.processes import called_by
from tests.report.campaign_graph import finished_campaign


def test_reasons_that_differ_in_numbers_are_one() -> None:
    reasons = [
        'the largest force, 120.5 eV/Å, is above 100 eV/Å',
        'the SCF did not converge in 80 steps',
        'the largest force, 9e3 eV/Å, is above 100 eV/Å',
        'the largest force, 101.0 eV/Å, is above 100 eV/Å',
        'the SCF did not converge in 80 steps',
    ]
    assert group_reasons(reasons) == [
        ('the largest force, … eV/Å, is above … eV/Å', 3),
        ('the SCF did not converge in 80 steps', 2),
    ]
    assert group_reasons([]) == []


def test_costs_and_rejections_of_a_campaign() -> None:
    node = finished_campaign()
    processes = called_by(node)
    costs = label_costs(processes)
    frames = node.outputs.dataset.configurations
    assert set(frames.frame_id) <= set(costs)
    (rejected,) = rejected_labels(processes, costs)
    (row,) = (frames.status == 'rejected').nonzero()[0]
    assert (rejected.frame_id, rejected.reason) == (frames.frame_id[row], frames.reason[row])
    assert (rejected.cost.n_attempts, rejected.cost.n_electrons) == (3, None)
    assert rejected.cost.core_s == pytest.approx(3e-4 * 44**3)
    assert rejected_labels(processes, {})[0].cost is None
