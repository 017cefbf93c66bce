"""The campaign: seeds, labels, committee, exploration, selection, labels ... until converged or out of budget."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ToContext, WorkChain, if_, while_
from aiida.manage.caching import disable_caching
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.calibrate import calibrate_uncertainty
from aiida_mlipal.calculations.functions.costs import predict_label_costs
from aiida_mlipal.calculations.functions.dataset import read_clock
from aiida_mlipal.calculations.functions.decide import decide_iteration
from aiida_mlipal.calculations.functions.drift import measure_drift
from aiida_mlipal.calculations.functions.grow import grow_dataset
from aiida_mlipal.calculations.functions.plan import plan_final_training, plan_iteration, start_campaign
from aiida_mlipal.calculations.functions.select import select_candidates, select_frames
from aiida_mlipal.calculations.mace_train import unfit_training
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.workflows.builder import CampaignBuilderMixin
from aiida_mlipal.workflows.campaign_inputs import validate_campaign
from aiida_mlipal.workflows.campaign_outputs import define_outputs
from aiida_mlipal.workflows.coverage import check_coverage
from aiida_mlipal.workflows.explore import ExploreWorkChain
from aiida_mlipal.workflows.label import LabelWorkChain
from aiida_mlipal.workflows.once import submit_once
from aiida_mlipal.workflows.outputs import output_namespace, reason_of
from aiida_mlipal.workflows.prescreen import PrescreenWorkChain, prescreen_inputs
from aiida_mlipal.workflows.seeds import SeedsWorkChain
from aiida_mlipal.workflows.train import TrainWorkChain
from aiida_mlipal.workflows.validate import ValidateWorkChain
from aiida_mlipal.workflows.warm_start import warm_start_inputs

__all__ = ('ActiveLearningWorkChain',)

MaceEvaluateCalculation = CalculationFactory('mlipal.mace.evaluate')
PropertiesCalculation = CalculationFactory('mlipal.properties')


class ActiveLearningWorkChain(CampaignBuilderMixin, WorkChain):
    """An active-learning campaign for a MACE potential. Every structure, label, model and decision is a node."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('dataset', valid_type=ConfigurationsData, required=False, help='Labelled frames to start from.')
        spec.input('seed', valid_type=orm.Int, help='Seed from which every random choice is derived.')
        spec.input('training', valid_type=orm.Dict, help='TrainingSettings, with `n_members`.')
        spec.input('warm_start', valid_type=orm.Dict, default=lambda: orm.Dict({}), help='WarmStartSettings.')
        spec.input('exploration', valid_type=orm.Dict, help='ExplorationSettings.')
        spec.input('selection', valid_type=orm.Dict, help='SelectionSettings.')
        spec.input('convergence', valid_type=orm.Dict, help='ConvergenceSettings: targets.')
        spec.input('budget', valid_type=orm.Dict, help='BudgetSettings: labels, iterations, wall time.')
        spec.input('validation', valid_type=orm.Dict, help='Equation of state: `eos`, `n_volumes`, `max_strain`.')
        spec.expose_inputs(SeedsWorkChain, namespace='seeds', exclude=('seed',))
        spec.expose_inputs(LabelWorkChain, namespace='label', exclude=('configurations', 'expected'))
        spec.expose_inputs(
            PrescreenWorkChain,
            namespace='prescreen',
            exclude=('configurations', 'expected'),
            namespace_options={
                'required': False,
                'populate_defaults': False,
                'help': 'A cheap engine that labels all candidates first; see PrescreenSettings for `settings`.',
            },
        )
        spec.input('prescreen.settings', valid_type=orm.Dict, help='PrescreenSettings: threshold.')
        spec.expose_inputs(TrainWorkChain, namespace='train', exclude=('dataset', 'settings', 'warm_start'))
        spec.expose_inputs(
            ExploreWorkChain, namespace='explore', exclude=('mace.model', 'mace.starts', 'mace.settings')
        )
        spec.expose_inputs(MaceEvaluateCalculation, namespace='evaluate', exclude=('model', 'configurations'))
        spec.expose_inputs(PropertiesCalculation, namespace='properties', exclude=('model', 'configurations'))
        spec.inputs.validator = validate_campaign

        spec.outline(
            cls.start_clock,
            cls.generate_seeds,
            cls.label_seeds,
            cls.start_dataset,
            while_(cls.should_iterate)(
                cls.plan,
                cls.train_committee,
                cls.explore_and_evaluate,
                if_(cls.has_prescreen)(cls.prescreen),
                cls.select,
                if_(cls.has_new_frames)(
                    cls.label_selected,
                    cls.extend_dataset,
                ),
                cls.decide,
            ),
            if_(cls.has_untrained_labels)(
                cls.plan_final_training,
                cls.train_committee,
                cls.inspect_final_training,
            ),
            cls.validate,
            cls.finish,
        )

        define_outputs(spec)

    # -- the first dataset ---------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Read the clock, if there is a limit on the wall time."""
        self.ctx.iteration = 0
        self.ctx.models = {}
        self.ctx.costs = {}
        if self.inputs.budget.get_dict().get('max_wall_time_s') is not None:
            self.ctx.started = self._read_clock()

    def generate_seeds(self) -> Any:
        """Generate seeds and isolated atoms from the structures."""
        inputs = self.exposed_inputs(SeedsWorkChain, 'seeds')
        return ToContext(seeds=submit_once(self, 'seeds', SeedsWorkChain, {'seed': self.inputs.seed, **inputs}))

    def label_seeds(self) -> Any:
        """Label the seeds."""
        if not self.ctx.seeds.is_finished_ok:
            return self.exit_codes.ERROR_SEEDS_FAILED.format(reason=reason_of(self.ctx.seeds))
        return self._submit_labels('label_seeds', self.ctx.seeds.outputs.configurations)

    def start_dataset(self) -> Any:
        """Join the seeds' labels with the dataset that the campaign was given, if any."""
        if not self.ctx.labels.is_finished_ok:
            return self.exit_codes.ERROR_LABELS_FAILED.format(reason=reason_of(self.ctx.labels))
        known = {'dataset': self.inputs.dataset} if 'dataset' in self.inputs else {}
        self._grow_dataset(**known)
        self.ctx.decision = start_campaign(self.ctx.dataset, *known.values())
        return None

    # -- one iteration -------------------------------------------------------------------------------------------

    def should_iterate(self) -> bool:
        """Return whether the last decision was to go on."""
        return bool(self.ctx.decision['outcome'] == 'continue')

    def plan(self) -> None:
        """Draw the iteration's seeds and the frames where simulations start."""
        plan = plan_iteration(
            dataset=self.ctx.dataset,
            decision=self.ctx.decision,
            seed=self.inputs.seed,
            training=self.inputs.training,
            exploration=self.inputs.exploration,
            selection=self.inputs.selection,
            **self._sources_of_starts(),
            **({'calibration': self.ctx.calibration} if 'calibration' in self.ctx else {}),
        )
        self.ctx.iteration = self.ctx.decision['iteration'] + 1
        self.ctx.training, self.ctx.exploration, self.ctx.starts = plan['training'], plan['exploration'], plan['starts']
        self.report(f'iteration {self.ctx.iteration}: {self.ctx.dataset.n_frames} frames in the dataset')

    def train_committee(self) -> Any:
        """Train a committee on all labelled frames outside the random stream."""
        inputs = self.exposed_inputs(TrainWorkChain, 'train')
        inputs.update(dataset=self.ctx.dataset, settings=self.ctx.training)
        inputs.update(warm_start_inputs(self.ctx, self.inputs.warm_start))
        others = inputs.get('other_datasets', {})
        problem = unfit_training(self.ctx.dataset, others, self.ctx.training.get_dict(), inputs)
        if problem is not None:
            self._return_results()
            return self.exit_codes.ERROR_TRAINING_FAILED.format(reason=problem)
        self.ctx.trained_on = self.ctx.dataset
        return ToContext(training_process=submit_once(self, f'train_{self._name}', TrainWorkChain, inputs))

    def explore_and_evaluate(self) -> Any:
        """Run dynamics with the committee, and let it predict what is already labelled."""
        failure = self._keep_model()
        if failure is not None:
            return failure
        explore = self.exposed_inputs(ExploreWorkChain, 'explore')
        explore['mace'].update(model=self.ctx.model, starts=self.ctx.starts, settings=self.ctx.exploration)
        evaluate = self.exposed_inputs(MaceEvaluateCalculation, 'evaluate')
        evaluate.update(model=self.ctx.model, configurations=self.ctx.dataset)
        return ToContext(
            exploration_process=submit_once(self, f'explore_{self._name}', ExploreWorkChain, explore),
            evaluation_process=submit_once(self, f'evaluate_{self._name}', MaceEvaluateCalculation, evaluate),
        )

    def has_prescreen(self) -> bool:
        """Return whether a cheap level of theory is to look at the candidates first."""
        return 'engine' in self.inputs.get('prescreen', {}) and bool(self.ctx.exploration_process.is_finished_ok)

    def prescreen(self) -> Any:
        """Label all candidates with the cheap engine."""
        inputs = self.exposed_inputs(PrescreenWorkChain, 'prescreen')
        inputs['configurations'] = select_candidates(self.ctx.exploration_process.outputs.pool)
        return ToContext(prescreen_process=submit_once(self, f'prescreen_{self._name}', PrescreenWorkChain, inputs))

    def select(self) -> Any:
        """Calibrate the uncertainty and decide which frames are worth a label."""
        if not self.ctx.exploration_process.is_finished_ok:
            return self._stop(self.exit_codes.ERROR_EXPLORATION_FAILED, self.ctx.exploration_process)
        if not self.ctx.evaluation_process.is_finished_ok:
            return self._stop(self.exit_codes.ERROR_EVALUATION_FAILED, self.ctx.evaluation_process)
        exploration = self.ctx.exploration_process.outputs
        evaluation = self.ctx.evaluation_process.outputs.evaluation
        self.ctx.calibration = calibrate_uncertainty(self.ctx.dataset, evaluation, self.inputs.selection)
        chosen = select_frames(
            pool=exploration.pool,
            evaluation=exploration.evaluation,
            exploration=exploration.results,
            dataset=self.ctx.dataset,
            dataset_evaluation=evaluation,
            calibration=self.ctx.calibration,
            selection=self.inputs.selection,
            budget=self.inputs.budget,
            decision=self.ctx.decision,
            seed=self.inputs.seed,
            **self._label_costs(exploration.pool),
            **prescreen_inputs(self),
        )
        self.ctx.selection, self.ctx.frames = chosen['selection'], chosen['frames']
        self.out(f'calibrations.{self._name}', self.ctx.calibration)
        drift = measure_drift(exploration.pool, exploration.evaluation, self.ctx.dataset, evaluation)
        self.out(f'drifts.{self._name}', drift)
        self.out(f'selections.{self._name}', self.ctx.selection)
        return None

    def has_new_frames(self) -> bool:
        """Return whether anything was selected."""
        return bool(self.ctx.frames.n_frames)

    def label_selected(self) -> Any:
        """Label the selected frames and the random ones, and hold the labels against what the committee expects."""
        expected = self.ctx.exploration_process.outputs.evaluation
        return self._submit_labels(f'label_{self._name}', self.ctx.frames, expected=expected)

    def extend_dataset(self) -> Any:
        """Add the new labels, accepted and rejected, to the dataset; see whether they are as was expected of them."""
        if 'labels' in self.ctx.labels.outputs:
            check_coverage(self, self._name)
            self._grow_dataset(
                dataset=self.ctx.dataset,
                dataset_evaluation=self.ctx.evaluation_process.outputs.evaluation,
                pool_evaluation=self.ctx.exploration_process.outputs.evaluation,
            )
        if not self.ctx.labels.is_finished_ok:
            return self._stop(self.exit_codes.ERROR_LABELS_FAILED, self.ctx.labels)
        return None

    def decide(self) -> None:
        """Decide whether to go on."""
        inputs = {
            'dataset': self.ctx.dataset,
            'dataset_evaluation': self.ctx.evaluation_process.outputs.evaluation,
            'pool_evaluation': self.ctx.exploration_process.outputs.evaluation,
            'selection': self.ctx.selection,
            'previous': self.ctx.decision,
            'convergence': self.inputs.convergence,
            'budget': self.inputs.budget,
            'seed': self.inputs.seed,
        }
        if 'started' in self.ctx:
            inputs.update(started=self.ctx.started, now=self._read_clock())
        self.ctx.decision = decide_iteration(**inputs)
        self.out(f'decisions.{self._name}', self.ctx.decision)
        self.report(f'{self.ctx.decision["outcome"]}: {"; ".join(self.ctx.decision["reasons"])}')

    # -- the end -------------------------------------------------------------------------------------------------

    def has_untrained_labels(self) -> bool:
        """Return whether labels came after the last training."""
        return bool(self.ctx.trained_on.uuid != self.ctx.dataset.uuid)

    def plan_final_training(self) -> None:
        """Draw the seeds of the last training."""
        self.ctx.iteration += 1
        self.ctx.training = plan_final_training(self.ctx.decision, self.inputs.seed, self.inputs.training)

    def inspect_final_training(self) -> Any:
        """Keep the final committee."""
        return self._keep_model()

    def validate(self) -> Any:
        """Compare all models on the same unseen frames, and the last with the teacher's equation of state."""
        inputs = {
            'dataset': self.ctx.dataset,
            'models': self.ctx.models,
            'parents': self.ctx.seeds.outputs.parents,
            'settings': self.inputs.validation,
            'label': self.exposed_inputs(LabelWorkChain, 'label'),
            'evaluate': self.exposed_inputs(MaceEvaluateCalculation, 'evaluate'),
            'properties': self.exposed_inputs(PropertiesCalculation, 'properties'),
        }
        return ToContext(validation_process=submit_once(self, 'validate', ValidateWorkChain, inputs))

    def finish(self) -> Any:
        """Return everything."""
        if not self.ctx.validation_process.is_finished_ok:
            return self._stop(self.exit_codes.ERROR_VALIDATION_FAILED, self.ctx.validation_process)
        self.out('validation', self.ctx.validation_process.outputs.validation)
        self._return_results()
        return None

    # -- helpers -------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f'iteration_{self.ctx.iteration:02d}'

    def _sources_of_starts(self) -> dict[str, orm.Data]:
        """Return what the rule for the starts asks for beside the dataset, as far as it exists."""
        exploration = self.inputs.exploration.get_dict()
        shares, plans = exploration.get('starts', {}), exploration.get('plans', [])
        sources = {}
        if shares.get('structures') or any(plan['kind'] == 'neb' for plan in plans):
            sources['structures'] = self.ctx.seeds.outputs.parents
        if 'exploration_process' in self.ctx and (shares.get('uncertain') or shares.get('last_safe')):
            explored = self.ctx.exploration_process.outputs
            sources.update(pool=explored.pool, pool_evaluation=explored.evaluation)
            if 'uncut' in explored:
                sources['uncut'] = explored.uncut
            sources['dataset_evaluation'] = self.ctx.evaluation_process.outputs.evaluation
        return sources

    def _submit_labels(self, link_label: str, frames: ConfigurationsData, **more: orm.Data) -> Any:
        inputs = {**self.exposed_inputs(LabelWorkChain, 'label'), 'configurations': frames, **more}
        return ToContext(labels=submit_once(self, link_label, LabelWorkChain, inputs))

    def _label_costs(self, pool: ConfigurationsData) -> dict[str, orm.Data]:
        """Return the costs to expect of the labels of a pool, for a selection that looks at them."""
        if not from_dict(SelectionSettings, self.inputs.selection.get_dict()).cost_method:
            return {}
        return {'costs': predict_label_costs(pool=pool, dataset=self.ctx.dataset, **self.ctx.costs)}

    def _grow_dataset(self, **known: orm.Data) -> None:
        """Add the labels that were just made to the dataset, and record what each frame is for."""
        labels, inputs = self.ctx.labels.outputs.labels, self.inputs
        for node in output_namespace(self.ctx.labels, 'costs').values():
            self.ctx.costs[f'costs_{len(self.ctx.costs):04d}'] = node
        self.ctx.dataset = grow_dataset(labels, inputs.training, inputs.selection, inputs.seed, **known)

    def _keep_model(self) -> Any:
        """Keep the committee that was just trained, or stop."""
        process = self.ctx.training_process
        if not process.is_finished_ok:
            return self._stop(self.exit_codes.ERROR_TRAINING_FAILED, process)
        self.ctx.model = process.outputs.model
        self.ctx.models[self._name] = self.ctx.model
        self.out(f'models.{self._name}', self.ctx.model)
        return None

    def _read_clock(self) -> orm.Float:
        with disable_caching():
            reading: orm.Float = read_clock()
        return reading

    def _return_results(self) -> None:
        """Return model, dataset and decision, as far as the campaign got."""
        for name in ('model', 'dataset', 'decision'):
            if name in self.ctx:
                self.out(name, self.ctx[name])

    def _stop(self, exit_code: Any, process: orm.ProcessNode) -> Any:
        """End the campaign with what it has; say why."""
        self._return_results()
        return exit_code.format(reason=reason_of(process))
