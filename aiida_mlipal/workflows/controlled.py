"""A campaign and its control arm: the same campaign with random picks, to measure what the selection saves."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder, ToContext, WorkChain, while_
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.committee import training_dataset
from aiida_mlipal.calculations.functions.control import ARMS, common_test_set, compare_arms, control_selection
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import unknown_name
from aiida_mlipal.science.strategies.pick import NEED_UNCERTAINTY, STRATEGIES
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.campaign_inputs import validate_campaign
from aiida_mlipal.workflows.once import submit_once
from aiida_mlipal.workflows.outputs import output_namespace, reason_of
from aiida_mlipal.workflows.validate import MAX_CONCURRENT

__all__ = ('ControlledCampaignWorkChain',)

MaceEvaluateCalculation = CalculationFactory('mlipal.mace.evaluate')

#: Methods of a control arm: those that do not ask the model how unsure it is.
CONTROLS = tuple(name for name in STRATEGIES if name not in NEED_UNCERTAINTY)


def _validate(inputs: Any, context: Any) -> str | None:
    """Check the campaign, and that its control arm differs from it."""
    problem = validate_campaign({name: value for name, value in inputs.items() if name != 'control'}, context)
    if problem is not None or 'control' not in inputs or 'selection' not in inputs:
        return problem
    method = inputs['control'].value
    if method not in CONTROLS:
        return f'`control`: {unknown_name("method of a control arm", method, CONTROLS)}'
    if method == inputs['selection'].get_dict().get('method', SelectionSettings.method):
        return f'`control`: campaign and control arm both select by `{method}`; let `selection` have another method.'
    return None


class ControlledCampaignWorkChain(WorkChain):
    """Run a campaign, then the same campaign with random picks, and compare their models on the same unseen frames.

    The control arm comes second: it finds the labels of the seeds, and of all frames that both arms pick, among those
    of the first, so that nothing is paid twice.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.expose_inputs(ActiveLearningWorkChain, exclude=('metadata',))
        spec.input(
            'control',
            valid_type=orm.Str,
            default=lambda: orm.Str('random'),
            help='Selection method of the control arm.',
        )
        spec.inputs.validator = _validate
        spec.outline(
            cls.run_campaign,
            cls.run_control,
            cls.gather_models,
            while_(cls.has_model)(cls.evaluate_models),
            cls.compare,
        )
        spec.expose_outputs(ActiveLearningWorkChain, include=('model', 'dataset', 'decision', 'validation'))
        spec.output('comparison', valid_type=orm.Dict, help='Learning curves of both arms and the saving in labels.')
        spec.exit_code(410, 'ERROR_CAMPAIGN_FAILED', message='The campaign failed. {reason}')
        spec.exit_code(420, 'ERROR_CONTROL_FAILED', message='The control arm failed. {reason}')
        spec.exit_code(430, 'ERROR_EVALUATION_FAILED', message='Evaluating a model failed. {reason}')

    @classmethod
    def get_builder_from_campaign(cls, campaign: ProcessBuilder, control: str = 'random') -> ProcessBuilder:
        """Return a builder for the campaign of another builder, with a control arm.

        :param control: selection method of the control arm.
        """
        builder: ProcessBuilder = cls.get_builder()
        builder._update(campaign._inputs(prune=True))
        builder.control = orm.Str(control)
        return builder

    def run_campaign(self) -> Any:
        """Run the campaign itself."""
        inputs = self.exposed_inputs(ActiveLearningWorkChain)
        return ToContext(campaign=submit_once(self, 'campaign', ActiveLearningWorkChain, inputs))

    def run_control(self) -> Any:
        """Run the same campaign, all seeds included, with the other selection method."""
        if not self.ctx.campaign.is_finished_ok:
            return self.exit_codes.ERROR_CAMPAIGN_FAILED.format(reason=reason_of(self.ctx.campaign))
        self.out_many(self.exposed_outputs(self.ctx.campaign, ActiveLearningWorkChain))
        inputs = self.exposed_inputs(ActiveLearningWorkChain)
        inputs['selection'] = control_selection(self.inputs.selection, self.inputs.control)
        return ToContext(control=submit_once(self, 'control', ActiveLearningWorkChain, inputs))

    def gather_models(self) -> Any:
        """Put together the frames that judge, and the models to be judged."""
        if not self.ctx.control.is_finished_ok:
            return self.exit_codes.ERROR_CONTROL_FAILED.format(reason=reason_of(self.ctx.control))
        self.ctx.test = common_test_set(*(self.ctx[arm].outputs.dataset for arm in ARMS))
        self.ctx.models = {
            f'{arm}_{name}': model for arm in ARMS for name, model in output_namespace(self.ctx[arm], 'models').items()
        }
        self.ctx.waiting = sorted(self.ctx.models)
        return None

    def has_model(self) -> bool:
        """Return whether a model is left to evaluate."""
        return bool(self.ctx.waiting)

    def evaluate_models(self) -> Any:
        """Evaluate the next models on the common frames."""
        names, self.ctx.waiting = self.ctx.waiting[:MAX_CONCURRENT], self.ctx.waiting[MAX_CONCURRENT:]
        common = {**self.exposed_inputs(ActiveLearningWorkChain)['evaluate'], 'configurations': self.ctx.test}
        processes = {}
        for name in names:
            label = f'evaluation_{name}'
            inputs = {**common, 'model': self.ctx.models[name]}
            processes[label] = submit_once(self, label, MaceEvaluateCalculation, inputs)
        return ToContext(**processes)

    def compare(self) -> Any:
        """Return what the campaign saved."""
        inputs: dict[str, orm.Data] = {'initial': self.inputs.dataset} if 'dataset' in self.inputs else {}
        for name, model in self.ctx.models.items():
            process = self.ctx[f'evaluation_{name}']
            if not process.is_finished_ok:
                return self.exit_codes.ERROR_EVALUATION_FAILED.format(reason=reason_of(process))
            inputs[name], inputs[f'{name}_dataset'] = process.outputs.evaluation, training_dataset(model)
        comparison = compare_arms(self.ctx.test, self.inputs.seed, **inputs)
        self.report(comparison['sentence'])
        self.out('comparison', comparison)
        return None
