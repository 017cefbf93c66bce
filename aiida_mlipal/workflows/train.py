"""Train a committee; a member that fails is trained again alone."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ToContext, WorkChain, append_, while_
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.committee import assemble_committee, settings_of_failed_members
from aiida_mlipal.calculations.mace_train import unfit_training
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.workflows.outputs import output_namespace
from aiida_mlipal.workflows.train_builder import TrainBuilderMixin

__all__ = ('TrainWorkChain',)

MaceTrainCalculation = CalculationFactory('mlipal.mace.train')

MAX_ATTEMPTS = 2
#: A second attempt would fail as the first did: a package is missing on the compute node, or it refuses the settings.
_HOPELESS = ('ERROR_MISSING_PACKAGE', 'ERROR_SETTINGS_REFUSED')


def _validate(inputs: Any, _: Any) -> str | None:
    """Refuse what cannot be trained on before anything is submitted."""
    if 'dataset' not in inputs or 'settings' not in inputs:
        return None  # a campaign fills them in, and looks at them then
    return unfit_training(inputs['dataset'], inputs.get('other_datasets', {}), inputs['settings'].get_dict())


class TrainWorkChain(TrainBuilderMixin, WorkChain):
    """A committee of models on one dataset, from different recorded seeds.

    Labels of other levels of theory are learned by heads of their own; everything downstream asks the main head.
    """

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
        spec.expose_inputs(MaceTrainCalculation, namespace='mace', exclude=('dataset', 'settings', 'other_datasets'))
        spec.inputs.validator = _validate
        spec.outline(
            cls.setup,
            while_(cls.should_train)(
                cls.train,
                cls.inspect,
            ),
            cls.assemble,
        )
        spec.output('model', valid_type=MlipModelData, help='The committee.')
        spec.output_namespace('results', dynamic=True, valid_type=orm.Dict, help='Errors and timings of each attempt.')
        spec.output_namespace('history', dynamic=True, valid_type=orm.ArrayData, help='Training curves.')
        spec.exit_code(
            410,
            'ERROR_TRAINING_FAILED',
            message='Only {n_trained} of {n_members} committee members could be trained: {reason}',
        )

    def setup(self) -> None:
        """Nothing has been trained yet."""
        self.ctx.settings = self.inputs.settings
        self.ctx.members = {}
        self.ctx.jobs = []
        self.ctx.done = False

    def should_train(self) -> bool:
        """Return whether members are missing and an attempt is left."""
        return not self.ctx.done and len(self.ctx.jobs) < MAX_ATTEMPTS

    def train(self) -> Any:
        """Train the missing members in one job."""
        inputs = self.exposed_inputs(MaceTrainCalculation, 'mace')
        inputs.update(dataset=self.inputs.dataset, settings=self.ctx.settings)
        if 'other_datasets' in self.inputs:
            inputs['other_datasets'] = dict(self.inputs.other_datasets)
        gpus = inputs['metadata'].get('options', {}).get('gpus')
        if gpus is not None:  # members that failed may be fewer than the GPUs of all
            options = {**inputs['metadata']['options'], 'gpus': min(gpus, len(self.ctx.settings['seeds']))}
            inputs['metadata'] = {**inputs['metadata'], 'options': options}
        return ToContext(jobs=append_(self.submit(MaceTrainCalculation, **inputs)))

    def inspect(self) -> None:
        """Keep the members that were trained, and plan those that failed."""
        job = self.ctx.jobs[-1]
        attempt = f'attempt_{len(self.ctx.jobs) - 1}'
        for label in ('results', 'history'):
            if label in job.outputs:
                self.out(f'{label}.{attempt}', job.outputs[label])
        for label, member in output_namespace(job, 'models').items():
            self.ctx.members[f'{attempt}_{label}'] = member
        hopeless = [MaceTrainCalculation.exit_codes[label].status for label in _HOPELESS]
        self.ctx.done = job.is_finished_ok or job.exit_status in hopeless
        if not job.is_finished_ok:
            self.report(f'{job.process_label}<{job.pk}> failed: {job.exit_message}')
            if 'results' in job.outputs and len(self.ctx.members):
                self.ctx.settings = settings_of_failed_members(self.ctx.settings, job.outputs.results)

    def assemble(self) -> Any:
        """Return the committee, if all members are there."""
        n_members = len(self.inputs.settings['seeds'])
        if len(self.ctx.members) < n_members:
            return self.exit_codes.ERROR_TRAINING_FAILED.format(
                n_trained=len(self.ctx.members), n_members=n_members, reason=self.ctx.jobs[-1].exit_message
            )
        self.out('model', assemble_committee(**self.ctx.members))
        return None
