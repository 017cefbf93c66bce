"""Trainings that go on from the committee of the iteration before, and what happens when they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ExitCode, ProcessHandlerReport, process_handler
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.warm_start import plan_warm_start
from aiida_mlipal.calculations.warm_start import start_problem
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.warm_start import WarmStartSettings

__all__ = ('WarmStartMixin', 'warm_start_inputs')

_JOB = CalculationFactory('mlipal.mace.train').exit_codes


def warm_start_inputs(ctx: Any, settings: orm.Dict) -> dict[str, Any]:
    """Return the inputs of a campaign's training by which it goes on from the model before, none if it does not.

    The last training of a campaign never does.
    """
    schedule = from_dict(WarmStartSettings, settings.get_dict())
    if 'model' not in ctx or ctx.decision['outcome'] != 'continue' or not schedule.applies(ctx.iteration):
        return {}
    planned = plan_warm_start(
        model=ctx.model,
        dataset=ctx.dataset,
        dataset_evaluation=ctx.evaluation_process.outputs.evaluation,
        pool_evaluation=ctx.exploration_process.outputs.evaluation,
        training=ctx.training,
        warm_start=settings,
    )
    return {'warm_start': {'model': ctx.model, **planned}}


def _unfit(model: MlipModelData, dataset: ConfigurationsData, settings: Mapping[str, Any]) -> str | None:
    """Return why members cannot go on, as far as it shows without looking into their files."""
    frames = dataset.configurations
    elements = frames.take(frames.has_role('train', 'validation')).elements
    if set(elements) != set(model.elements):
        return f'the model knows {"-".join(model.elements)}, the dataset holds {"-".join(elements)}'
    if settings.get('e0s') == 'least_squares':
        return 'the energies of the atoms are fitted to the dataset (`e0s: least_squares`), which has changed'
    return None


def _validate(given: Mapping[str, Any], _: Any) -> str | None:
    """Refuse what members cannot go on with."""
    if 'model' not in given:
        return None if not given else '`warm_start` has no `model`: give the committee whose members are to go on.'
    if 'settings' not in given:
        return '`warm_start` has no `settings`: give training settings with the seeds of members that are to go on.'
    start = {'start': given['model'], **{name: given[name] for name in ('copies',) if name in given}}
    return start_problem(start, given['settings'].get_dict())


class WarmStartMixin:
    """Lets a training begin with an earlier committee. If that leads nowhere it is trained from scratch."""

    ctx: Any
    inputs: Any
    report: Any

    @classmethod
    def declare_warm_start(cls, spec: Any) -> None:
        """Define the inputs."""
        spec.input_namespace(
            'warm_start', required=False, populate_defaults=False, help='A committee to go on from, and how.'
        )
        spec.inputs['warm_start'].validator = _validate
        spec.input('warm_start.model', valid_type=MlipModelData, required=False, help='Committee whose members go on.')
        spec.input(
            'warm_start.settings',
            valid_type=orm.Dict,
            required=False,
            help='Training settings of the members that go on, with their seeds; `settings` are those from scratch.',
        )
        spec.input(
            'warm_start.copies',
            valid_type=orm.ArrayData,
            required=False,
            help='How often each training frame occurs in an epoch, see `mlipal.mace.train`.',
        )

    def begin_warm(self) -> None:
        """Prepare the first job: from the given committee, if there is one that fits."""
        given = self.inputs.get('warm_start', {})
        self.ctx.is_warm = False
        if 'model' not in given:
            return
        problem = _unfit(given['model'], self.inputs.dataset, self.inputs.settings.get_dict())
        if problem is not None:
            self.report(f'no warm start, since {problem}; training from scratch')
            return
        self.ctx.is_warm = True
        self.ctx.settings = given['settings']
        self.ctx.inputs.start = given['model']
        if 'copies' in given:
            self.ctx.inputs.copies = given['copies']

    def _from_scratch(self, reason: str) -> None:
        """Forget the warm start and all that came of it: members of one committee are trained in one way."""
        self.report(f'the warm start led nowhere ({reason}); training from scratch')
        for name in ('start', 'copies', 'previous'):
            self.ctx.inputs.pop(name, None)
        self.ctx.settings = self.inputs.settings
        self.ctx.members = {}
        self.ctx.is_warm = self.ctx.unhandled_failure = False
        self.ctx.lowered = self.ctx.in_vain = 0

    @process_handler(priority=400)
    def handle_start_refused(self, job: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """The earlier models are of another kind: other architecture, or other energies of the atoms."""
        if job.is_finished_ok or 'results' not in job.outputs:
            return None
        members = job.outputs.results['members'].values()
        reasons = [member['reason'] for member in members if member.get('kind') == 'start_refused']
        if not reasons:
            return None
        self._from_scratch(reasons[0])
        return ProcessHandlerReport(do_break=True)

    def scratch_instead(self, job: orm.CalcJobNode, error: ExitCode | None) -> ExitCode | None:
        """Return the error that ends the training, unless it is one that a training from scratch may not meet."""
        ends = {'ERROR_TRAINING_FAILED', 'ERROR_NON_FINITE'}
        codes = self.exit_codes  # type: ignore[attr-defined]
        hopeless = {_JOB.ERROR_MISSING_PACKAGE.status, _JOB.ERROR_SETTINGS_REFUSED.status}
        if error is None or not self.ctx.is_warm or job.exit_status in hopeless:
            return error
        if error.status not in {codes[label].status for label in ends}:
            return error
        self._from_scratch(error.message)
        return None
