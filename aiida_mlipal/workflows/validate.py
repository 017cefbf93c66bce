"""Validate every iteration's model on the same unseen frames, and the last one on an equation of state."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ToContext, WorkChain, if_, while_
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.dataset import random_stream
from aiida_mlipal.calculations.functions.validate import equation_of_state_frames, validation_summary
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.workflows.campaign_inputs import foreign_labels
from aiida_mlipal.workflows.label import LabelWorkChain
from aiida_mlipal.workflows.once import submit_once

__all__ = ('ValidateWorkChain',)

MaceEvaluateCalculation = CalculationFactory('mlipal.mace.evaluate')
PropertiesCalculation = CalculationFactory('mlipal.properties')

#: Evaluations at the same time: each is short and loads torch anew, and a machine without scheduler starts them all.
MAX_CONCURRENT = 2


def _validate(inputs: Any, _: Any) -> str | None:
    """Refuse a teacher and models of another level of theory than the dataset's: no error would mean anything."""
    if not {'dataset', 'models', 'label'} <= set(inputs):
        return None  # reported by the ports themselves
    dataset = inputs['dataset']
    problems = [
        f'`models.{name}`: node {model.pk} learned the level of theory {model.level_of_theory_hash}, the dataset (node '
        f'{dataset.pk}) has {dataset.level_of_theory_hash or "none"}; validate it on labels of its own level.'
        for name, model in sorted(inputs['models'].items())
        if model.level_of_theory_hash != dataset.level_of_theory_hash
    ]
    return ' '.join(problems + foreign_labels(inputs)) or None


class ValidateWorkChain(WorkChain):
    """Learning curve on the union of all random frames; lattice constant and bulk modulus against the teacher."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('dataset', valid_type=ConfigurationsData, help='All labelled frames, the random stream among them.')
        spec.input_namespace('models', dynamic=True, valid_type=MlipModelData, help='By name; the last is the result.')
        spec.input('parents', valid_type=ConfigurationsData, help='Structures for the equation of state.')
        spec.input('settings', valid_type=orm.Dict, help='`eos`: whether; `n_volumes`, `max_strain` (linear).')
        spec.expose_inputs(LabelWorkChain, namespace='label', exclude=('configurations',))
        spec.expose_inputs(MaceEvaluateCalculation, namespace='evaluate', exclude=('model', 'configurations'))
        spec.expose_inputs(PropertiesCalculation, namespace='properties', exclude=('model', 'configurations'))
        spec.inputs.validator = _validate
        spec.outline(
            cls.prepare,
            if_(cls.wants_equation_of_state)(
                cls.submit_labels,
                cls.compute_properties,
            ),
            while_(cls.has_model)(cls.evaluate_models),
            cls.summarise,
        )
        spec.output('validation', valid_type=orm.Dict, help='Learning curve and equations of state.')
        spec.output_namespace('evaluations', dynamic=True, help='Predictions of each model for the random frames.')
        spec.exit_code(410, 'ERROR_VALIDATION_FAILED', message='The validation did not finish: {reason}')

    def prepare(self) -> None:
        """Take the random frames out of the dataset and strain the parents."""
        self.ctx.stream = random_stream(self.inputs.dataset)
        self.ctx.waiting = sorted(self.inputs.models)

    def wants_equation_of_state(self) -> bool:
        """Return whether to fit an equation of state; only crystals have one."""
        return bool(self.inputs.settings['eos'] and self.inputs.parents.configurations.pbc.all())

    def submit_labels(self) -> Any:
        """Label the strained cells with the teacher."""
        self.ctx.strained = equation_of_state_frames(self.inputs.parents, self.inputs.settings)
        inputs = {**self.exposed_inputs(LabelWorkChain, 'label'), 'configurations': self.ctx.strained}
        return ToContext(labels=submit_once(self, 'labels', LabelWorkChain, inputs))

    def has_model(self) -> bool:
        """Return whether a model is left to evaluate."""
        return bool(self.ctx.waiting)

    def evaluate_models(self) -> Any:
        """Evaluate the next models on the random frames."""
        names, self.ctx.waiting = self.ctx.waiting[:MAX_CONCURRENT], self.ctx.waiting[MAX_CONCURRENT:]
        inputs = {**self.exposed_inputs(MaceEvaluateCalculation, 'evaluate'), 'configurations': self.ctx.stream}
        processes = {}
        for name in names:
            label = f'evaluation_{name}'
            processes[label] = submit_once(
                self, label, MaceEvaluateCalculation, {**inputs, 'model': self.inputs.models[name]}
            )
        return ToContext(**processes)

    def compute_properties(self) -> Any:
        """Fit the final model's equation of state."""
        model = self.inputs.models[sorted(self.inputs.models)[-1]]
        own = {'model': model, 'configurations': self.ctx.strained}
        inputs = {**self.exposed_inputs(PropertiesCalculation, 'properties'), **own}
        return ToContext(properties=submit_once(self, 'properties', PropertiesCalculation, inputs))

    def summarise(self) -> Any:
        """Return the learning curve and the comparison of the equations of state."""
        names = [f'evaluation_{name}' for name in self.inputs.models]
        processes = {name: self.ctx[name] for name in (*names, 'labels', 'properties') if name in self.ctx}
        for process in processes.values():
            if not process.is_finished_ok:
                reason = f'{process.process_label}<{process.pk}>: {process.exit_message}'
                return self.exit_codes.ERROR_VALIDATION_FAILED.format(reason=reason)
        inputs = {name: processes[f'evaluation_{name}'].outputs.evaluation for name in self.inputs.models}
        for name, evaluation in inputs.items():
            self.out(f'evaluations.{name}', evaluation)
        if 'labels' in processes:
            inputs['labels'] = processes['labels'].outputs.labels
            inputs['properties'] = processes['properties'].outputs.results
        self.out('validation', validation_summary(self.inputs.dataset, **inputs))
        return None
