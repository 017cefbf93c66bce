"""How a campaign holds new labels against what was expected of them."""

from __future__ import annotations

from aiida.engine import WorkChain

from aiida_mlipal.calculations.functions.calibrate import check_calibration

__all__ = ('check_coverage',)


def check_coverage(campaign: WorkChain, name: str) -> None:
    """Test the intervals of the last selection by the labels of its random stream; say so if they fell short.

    :param name: of the iteration.
    """
    ctx = campaign.ctx
    previous = {'previous': ctx.coverage} if 'coverage' in ctx else {}
    ctx.coverage = check_calibration(
        labels=ctx.labels.outputs.labels,
        pool_evaluation=ctx.exploration_process.outputs.evaluation,
        selection=ctx.selection,
        calibration=ctx.calibration,
        **previous,
    )
    campaign.out(f'coverage.{name}', ctx.coverage)
    for message in ctx.coverage['messages'] if ctx.coverage['alarm'] else ():
        campaign.report(message)
