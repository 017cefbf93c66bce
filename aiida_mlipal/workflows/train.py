"""Train a committee, and go on where a job was interrupted."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import BaseRestartWorkChain, ExitCode, ProcessHandlerReport, process_handler, while_
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.foundation import FOUNDATION_INPUTS, declare_foundation
from aiida_mlipal.calculations.functions.committee import (
    assemble_committee,
    settings_of_failed_members,
    settings_with_less_memory,
    settings_with_lower_rates,
)
from aiida_mlipal.calculations.mace_train import unfit_training
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_settings import TrainingSettings
from aiida_mlipal.workflows.outputs import output_namespace
from aiida_mlipal.workflows.train_builder import TrainBuilderMixin
from aiida_mlipal.workflows.warm_start import WarmStartMixin

__all__ = ('TrainWorkChain',)

MaceTrainCalculation = CalculationFactory('mlipal.mace.train')
_JOB: Final = MaceTrainCalculation.exit_codes

#: How often the learning rates are lowered: to a thousandth, below which a training learns nothing.
MAX_LOWERED: Final = 3
#: Jobs in a row that are interrupted before they have trained one epoch: after so many nobody will.
MAX_IN_VAIN: Final = 2


def _validate(inputs: Any, _: Any) -> str | None:
    """Refuse what cannot be trained on before anything is submitted."""
    if 'dataset' not in inputs or 'settings' not in inputs:
        return None  # a campaign fills them in, and looks at them then
    others = inputs.get('other_datasets', {})
    return unfit_training(inputs['dataset'], others, inputs['settings'].get_dict(), inputs)


class TrainWorkChain(TrainBuilderMixin, WarmStartMixin, BaseRestartWorkChain):
    """A committee of models on one dataset, from different recorded seeds.

    Labels of other levels of theory are learned by heads of their own; everything downstream asks the main head.

    Members that were trained are kept. Those that were not go on from their checkpoints in another job, with what the
    handlers below change: each knows one physical reason for which a training ends early.
    """

    _process_class = MaceTrainCalculation

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('dataset', valid_type=ConfigurationsData, help='Labelled frames.')
        spec.input('settings', valid_type=orm.Dict, help='Training settings, with a seed per member.')
        spec.input_namespace(
            'other_datasets',
            dynamic=True,
            valid_type=ConfigurationsData,
            required=False,
            help='Labelled frames of other levels of theory, by the names of the heads that learn them.',
        )
        declare_foundation(spec)
        cls.declare_warm_start(spec)
        own = ('dataset', 'settings', 'other_datasets', 'start', 'copies', *FOUNDATION_INPUTS)
        spec.expose_inputs(MaceTrainCalculation, namespace='mace', exclude=own)
        spec.inputs['max_iterations'].default = lambda: orm.Int(20)  # as many wall times; see MAX_IN_VAIN
        spec.inputs['on_unhandled_failure'].default = lambda: orm.Str('restart_once')
        spec.inputs.validator = _validate
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(
                cls.prepare_process,
                cls.run_process,
                cls.inspect_process,
            ),
            cls.assemble,
        )
        spec.output('model', valid_type=MlipModelData, help='The committee.')
        spec.output_namespace('results', dynamic=True, valid_type=orm.Dict, help='Errors and timings of each attempt.')
        spec.output_namespace('history', dynamic=True, valid_type=orm.ArrayData, help='Training curves.')
        spec.exit_code(
            401,
            'ERROR_MAXIMUM_ITERATIONS_EXCEEDED',
            message='The training was not finished in `max_iterations` jobs. Ask for a longer wall time, and give '
            '`mace.previous`, the `remote_folder` of the last job, to go on where it ended.',
        )
        spec.exit_code(
            410,
            'ERROR_TRAINING_FAILED',
            message='Only {n_trained} of {n_members} committee members could be trained: {reason}',
        )
        spec.exit_code(
            420,
            'ERROR_OUT_OF_MEMORY',
            message='Not even a batch of one frame fits into the memory: ask for more, lower `num_channels`, `max_L` '
            'or `r_max`, or take the largest frames out of the dataset. Last job: {reason}',
        )
        spec.exit_code(
            421,
            'ERROR_NON_FINITE',
            message='The training diverges even at a learning rate of {lr:g}: look for frames whose energies or forces '
            'cannot be right (largest force in the dataset: {force:.3g} eV/Å), take them out and start again. Last '
            'job: {reason}',
        )
        spec.exit_code(
            422,
            'ERROR_NO_PROGRESS',
            message='{n} jobs in a row were interrupted before one epoch was trained: ask for a wall time in which '
            'MACE can start and train some, or look at `verdi calcjob outputcat {pk}`; to go on from the checkpoints '
            'give `mace.previous`, the `remote_folder` of that job. Last job: {reason}',
        )

    def setup(self) -> None:
        """Nothing has been trained yet."""
        super().setup()
        self.ctx.settings = self.inputs.settings
        self.ctx.members = {}
        self.ctx.lowered = self.ctx.in_vain = 0
        self.ctx.inputs = AttributeDict(self.exposed_inputs(MaceTrainCalculation, 'mace'))
        self.ctx.inputs.dataset = self.inputs.dataset
        if 'other_datasets' in self.inputs:
            self.ctx.inputs.other_datasets = dict(self.inputs.other_datasets)
        self.ctx.inputs.update({name: self.inputs[name] for name in FOUNDATION_INPUTS if name in self.inputs})
        self.begin_warm()

    def prepare_process(self) -> None:
        """Train the missing members in one job."""
        self.ctx.inputs.settings = self.ctx.settings
        options = self.ctx.inputs['metadata'].get('options', {})
        if options.get('gpus') is not None:  # members that failed may be fewer than the GPUs of all
            settings = from_dict(TrainingSettings, self.ctx.settings.get_dict())
            most = min(len(settings.seeds), settings.max_parallel) * settings.gpus_per_member
            options = {**options, 'gpus': min(options['gpus'], most)}
            self.ctx.inputs['metadata'] = {**self.ctx.inputs['metadata'], 'options': options}

    def inspect_process(self) -> Any:
        """Keep the members that were trained, and let the handlers plan for those that were not."""
        job = self.ctx.children[-1]
        attempt = f'attempt_{self.ctx.iteration - 1}'
        for label in ('results', 'history'):
            if label in job.outputs:
                self.out(f'{label}.{attempt}', job.outputs[label])
        for label, member in output_namespace(job, 'models').items():
            self.ctx.members[f'{attempt}_{label}'] = member
        for name, member in (job.outputs.results['members'] if 'results' in job.outputs else {}).items():
            if member.get('stopped'):
                best = member['best_epoch']
                self.report(f'{name} was ended before its last epoch; its model is that of epoch {best}')
        if not job.is_finished_ok:
            self.report(f'{job.process_label}<{job.pk}> failed: {job.exit_message}')
            if 'results' in job.outputs and output_namespace(job, 'models'):
                self.ctx.settings = settings_of_failed_members(self.ctx.settings, job.outputs.results)
            if 'remote_folder' in job.outputs:
                self.ctx.inputs.previous = job.outputs.remote_folder
        error = super().inspect_process()
        if error == self.exit_codes.ERROR_UNHANDLED_FAILURE:
            error = self._give_up(job)
        return self.scratch_instead(job, error)

    # -- why a training ends early -----------------------------------------------------------------------------------

    @process_handler(priority=500, exit_codes=[_JOB.ERROR_MISSING_PACKAGE, _JOB.ERROR_SETTINGS_REFUSED])
    def handle_hopeless(self, job: orm.CalcJobNode) -> ProcessHandlerReport:
        """A package is missing on the compute node, or it refuses the settings: so would it a second time."""
        return ProcessHandlerReport(do_break=True, exit_code=self._give_up(job))

    @process_handler(priority=300)
    def handle_out_of_memory(self, job: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """Activations of a batch, of all members at a time, fill the memory: less at a time, from the checkpoints."""
        if not self._failed_with(job, 'out_of_memory', 'ERROR_OUT_OF_MEMORY', 'ERROR_SCHEDULER_OUT_OF_MEMORY'):
            return None
        before = from_dict(TrainingSettings, self.ctx.settings.get_dict())
        if before.batch_size == 1 and min(before.max_parallel, len(before.seeds)) == 1:
            error = self.exit_codes.ERROR_OUT_OF_MEMORY.format(reason=job.exit_message)
            return ProcessHandlerReport(do_break=True, exit_code=error)
        self.ctx.settings = settings_with_less_memory(self.ctx.settings)
        now = from_dict(TrainingSettings, self.ctx.settings.get_dict())
        self.report(
            f'memory ran out with `batch_size` {before.batch_size}, `max_parallel` {before.max_parallel}; going on '
            f'from the checkpoints with {now.batch_size} and {now.max_parallel}'
        )
        return ProcessHandlerReport()

    @process_handler(priority=200)
    def handle_non_finite(self, job: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """Steps too long for the curvature of the loss lead out of the valley: shorter ones, from the best weights."""
        if not self._failed_with(job, 'non_finite', 'ERROR_NON_FINITE'):
            return None
        lr = from_dict(TrainingSettings, self.ctx.settings.get_dict()).lr
        if self.ctx.lowered == MAX_LOWERED:
            force = float(np.nanmax(abs(self.inputs.dataset.configurations.forces)))  # rejected frames have none
            error = self.exit_codes.ERROR_NON_FINITE.format(lr=lr, force=force, reason=job.exit_message)
            return ProcessHandlerReport(do_break=True, exit_code=error)
        self.ctx.lowered += 1
        self.ctx.settings = settings_with_lower_rates(self.ctx.settings)
        self.report(
            f'the loss was no number any more at a learning rate of {lr:g}; going on from the best checkpoints '
            f'with {self.ctx.settings["lr"]:g}'
        )
        return ProcessHandlerReport()

    @process_handler(priority=100)
    def handle_interrupted(self, job: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """The wall time was over, the node failed, or somebody with more rights took it: nothing wrong with the job."""
        interrupted = ('ERROR_SCHEDULER_OUT_OF_WALLTIME', 'ERROR_SCHEDULER_NODE_FAILURE', 'ERROR_NO_RESULT')
        if not self._failed_with(job, 'interrupted', *interrupted):
            return None
        self.ctx.in_vain = 0 if 'history' in job.outputs else self.ctx.in_vain + 1
        if self.ctx.in_vain == MAX_IN_VAIN:
            error = self.exit_codes.ERROR_NO_PROGRESS.format(n=MAX_IN_VAIN, pk=job.pk, reason=job.exit_message)
            return ProcessHandlerReport(do_break=True, exit_code=error)
        self.report('the job was interrupted; going on from the checkpoints')
        return ProcessHandlerReport()

    def _failed_with(self, job: orm.CalcJobNode, kind: str, *labels: str) -> bool:
        """Return whether a job, or a member in it, ended for a reason."""
        if job.is_finished_ok:
            return False
        members = job.outputs.results['members'].values() if 'results' in job.outputs else ()
        statuses = {_JOB[label].status for label in labels}
        return job.exit_status in statuses or any(member.get('kind') == kind for member in members)

    def _give_up(self, job: orm.CalcJobNode) -> ExitCode:
        """Return the exit code of a training that nothing helps."""
        return self.exit_codes.ERROR_TRAINING_FAILED.format(
            n_trained=len(self.ctx.members), n_members=len(self.inputs.settings['seeds']), reason=job.exit_message
        )

    def assemble(self) -> None:
        """Return the committee."""
        self.out('model', assemble_committee(**self.ctx.members))
