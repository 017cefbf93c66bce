"""Explore with the current model, again if the machine let the job down."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import BaseRestartWorkChain, while_
from aiida.plugins import CalculationFactory

__all__ = ('ExploreWorkChain',)

MaceExploreCalculation = CalculationFactory('mlipal.mace.explore')


class ExploreWorkChain(BaseRestartWorkChain):
    """Molecular dynamics with one member, the committee's opinion on what it visited: the candidate pool."""

    _process_class = MaceExploreCalculation

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.expose_inputs(MaceExploreCalculation, namespace='mace')
        spec.inputs['on_unhandled_failure'].default = lambda: orm.Str('restart_once')
        spec.outline(
            cls.setup,
            cls.set_inputs,
            while_(cls.should_run_process)(
                cls.run_process,
                cls.inspect_process,
            ),
            cls.results,
        )
        spec.expose_outputs(MaceExploreCalculation)

    def set_inputs(self) -> None:
        """Pass the inputs on as they are."""
        self.ctx.inputs = AttributeDict(self.exposed_inputs(MaceExploreCalculation, 'mace'))
