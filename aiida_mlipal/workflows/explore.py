"""Explore with the current model, and go on where a job was interrupted."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import BaseRestartWorkChain, ExitCode, ProcessHandlerReport, process_handler, while_
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.plan import settings_with_smaller_batch
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('ExploreWorkChain',)

MaceExploreCalculation = CalculationFactory('mlipal.mace.explore')
_JOB = MaceExploreCalculation.exit_codes


class ExploreWorkChain(BaseRestartWorkChain):
    """Search configuration space with the current model: the candidate pool.

    A job that was interrupted is gone on with in another one, from the state that it left.
    """

    _process_class = MaceExploreCalculation

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.expose_inputs(MaceExploreCalculation, namespace='mace')
        spec.inputs['max_iterations'].default = lambda: orm.Int(20)  # as many wall times
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
        spec.exit_code(410, 'ERROR_EXPLORATION_FAILED', message='{reason}')

    def set_inputs(self) -> None:
        """Pass the inputs on as they are."""
        self.ctx.inputs = AttributeDict(self.exposed_inputs(MaceExploreCalculation, 'mace'))

    def inspect_process(self) -> Any:
        """Let the next job, if there is one, go on where this one ended."""
        job = self.ctx.children[self.ctx.iteration - 1]
        if not job.is_finished_ok and 'remote_folder' in job.outputs:
            self.ctx.inputs.previous = job.outputs.remote_folder
        return super().inspect_process()

    # -- why an exploration ends early -------------------------------------------------------------------------------

    @process_handler(priority=500, exit_codes=[_JOB.ERROR_MISSING_PACKAGE, _JOB.ERROR_SETTINGS_REFUSED])
    def handle_hopeless(self, job: orm.CalcJobNode) -> ProcessHandlerReport:
        """A package is missing on the compute node, or it refuses the settings: so would it a second time."""
        return ProcessHandlerReport(do_break=True, exit_code=self._give_up(job))

    @process_handler(priority=300, exit_codes=[_JOB.ERROR_OUT_OF_MEMORY, _JOB.ERROR_SCHEDULER_OUT_OF_MEMORY])
    def handle_out_of_memory(self, job: orm.CalcJobNode) -> ProcessHandlerReport:
        """Too many atoms move together for the memory: half of them."""
        settings = self.ctx.inputs.settings
        if from_dict(ExplorationSettings, settings.get_dict()).atoms_per_batch == 1:
            return ProcessHandlerReport(do_break=True, exit_code=self._give_up(job))
        self.ctx.inputs.settings = settings_with_smaller_batch(settings)
        self.report(f'memory ran out; going on with `batch_atoms` {self.ctx.inputs.settings["batch_atoms"]}')
        return ProcessHandlerReport()

    @process_handler(
        priority=100,
        exit_codes=[_JOB.ERROR_SCHEDULER_OUT_OF_WALLTIME, _JOB.ERROR_SCHEDULER_NODE_FAILURE, _JOB.ERROR_NO_RESULT],
    )
    def handle_interrupted(self, job: orm.CalcJobNode) -> ProcessHandlerReport:
        """The wall time was over, the node failed, or somebody with more rights took it: nothing wrong with the job."""
        self.report('the job was interrupted; going on from the state that it left')
        return ProcessHandlerReport()

    def _give_up(self, job: orm.CalcJobNode) -> ExitCode:
        """Return the exit code of an exploration that nothing helps."""
        return self.exit_codes.ERROR_EXPLORATION_FAILED.format(reason=job.exit_message)
