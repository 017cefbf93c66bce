"""The cheap level of theory that looks at all candidates first."""

from __future__ import annotations

from typing import Any

from aiida.engine import WorkChain

from aiida_mlipal.workflows.label import LabelWorkChain
from aiida_mlipal.workflows.outputs import reason_of

__all__ = ('PrescreenWorkChain', 'prescreen_inputs')


class PrescreenWorkChain(LabelWorkChain):
    """Label candidates with a cheap engine. A process of its own, so that nobody counts its labels as paid ones."""


def prescreen_inputs(campaign: WorkChain) -> dict[str, Any]:
    """Return the labels of the cheap level for the selection of a campaign; where they failed, candidates go on."""
    if 'prescreen_process' not in campaign.ctx:
        return {}
    process = campaign.ctx.prescreen_process
    if not process.is_finished_ok:
        campaign.report(f'the prescreen failed, candidates without a cheap label go on: {reason_of(process)}')
    if 'labels' not in process.outputs:
        return {}
    return {'prescreen': process.outputs.labels, 'prescreen_settings': campaign.inputs.prescreen.settings}
