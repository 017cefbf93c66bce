"""Search for training settings: learning rate, batch size, and the number of committee members."""

from __future__ import annotations

from typing import Any, Final

from aiida import orm
from aiida.engine import ToContext, WorkChain, if_, while_
from aiida.manage.caching import disable_caching
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.tune import (
    grid_settings,
    largest_committee,
    point_settings,
    recommended_settings,
    tuning_table,
    validation_frames,
)
from aiida_mlipal.calculations.mace_train import unfit_training
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.tuning import TuningSettings, grid
from aiida_mlipal.workflows.concurrency import allowed_lanes
from aiida_mlipal.workflows.once import submit_once
from aiida_mlipal.workflows.outputs import output_namespace, reason_of
from aiida_mlipal.workflows.train import TrainWorkChain
from aiida_mlipal.workflows.tune_builder import TuneBuilderMixin
from aiida_mlipal.workflows.tune_table import tabulate_grid

__all__ = ('TuneWorkChain',)

MaceEvaluateCalculation = CalculationFactory('mlipal.mace.evaluate')

#: What a training on its own does about these is to change the settings, which are just what is looked at here.
_AS_GIVEN: Final = {name: {'enabled': False} for name in ('handle_non_finite', 'handle_out_of_memory')}


def _validate(inputs: Any, _: Any) -> str | None:
    """Refuse what cannot be searched or trained on before anything is submitted."""
    if not {'train', 'settings', 'search', 'max_concurrent'} <= set(inputs) or 'dataset' not in inputs['train']:
        return None  # reported by the ports themselves
    if inputs['max_concurrent'].value < 1:
        return f'`max_concurrent` is {inputs["max_concurrent"].value}, expected 1 or more.'
    given = inputs['settings'].get_dict()
    try:
        search = from_dict(TuningSettings, inputs['search'].get_dict())
    except (TypeError, ValueError) as exception:
        return f'`search`: {exception}'
    train = inputs['train']
    trained = (given, *(point_settings(given, search, point) for point in grid(search)[:1]))
    others = train.get('other_datasets', {})
    problems = (unfit_training(train['dataset'], others, settings, train) for settings in trained)
    return next((problem for problem in problems if problem is not None), None)


class TuneWorkChain(TuneBuilderMixin, WorkChain):
    """Train a few members at each point of a small grid, then one large committee at the best point.

    A point that diverges, or runs out of memory, is a row of the table with its reason. The number of members is the
    smallest whose spread ranks the atoms of the validation frames as that of the largest committee does.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('settings', valid_type=orm.Dict, help='Training settings; the search changes what it looks for.')
        spec.input('search', valid_type=orm.Dict, default=lambda: orm.Dict(), help='TuningSettings: what is tried.')
        spec.input('max_concurrent', valid_type=orm.Int, default=lambda: orm.Int(2), help='Trainings at the same time.')
        spec.expose_inputs(TrainWorkChain, namespace='train', exclude=('settings',))
        spec.inputs['train']['handler_overrides'].default = lambda: orm.Dict(_AS_GIVEN)
        spec.inputs['train']['on_unhandled_failure'].default = lambda: orm.Str('abort')
        spec.expose_inputs(MaceEvaluateCalculation, namespace='evaluate', exclude=('model', 'configurations'))
        spec.inputs.validator = _validate
        spec.outline(
            cls.plan,
            while_(cls.has_point)(cls.train_points),
            cls.tabulate,
            if_(cls.wants_committee)(
                cls.train_committee,
                cls.prepare_members,
                while_(cls.has_member)(cls.evaluate_members),
            ),
            cls.recommend,
        )
        spec.output(
            'table',
            valid_type=orm.Dict,
            help='`grid`: one row per learning rate and batch size; `committee`: one per number of members; '
            '`recommended`.',
        )
        spec.output('settings', valid_type=orm.Dict, help='The recommended settings, for `settings` of a training.')
        spec.output('training', valid_type=orm.Dict, help='The same for `training` of a campaign.')
        spec.exit_code(
            410,
            'ERROR_ALL_POINTS_FAILED',
            message='None of the {n_points} points of the grid could be trained, see `table`; try lower learning rates '
            'or smaller batches. The first reason: {reason}',
        )
        spec.exit_code(
            411,
            'ERROR_COMMITTEE_FAILED',
            message='The grid is in `table`, but the committee at its best point was not trained and evaluated: '
            '{reason} Lower `max_members` of the search, or set it to 0.',
        )

    def plan(self) -> None:
        """Write the settings of each point."""
        self.ctx.points = grid_settings(self.inputs.settings, self.inputs.search)
        self.ctx.waiting = sorted(self.ctx.points)
        self.ctx.members = {}

    def _next(self, name: str) -> list[str]:
        """Take as many off a list as may run now."""
        count = allowed_lanes(self.inputs.max_concurrent.value)
        batch, self.ctx[name] = self.ctx[name][:count], self.ctx[name][count:]
        return list(batch)

    def _train(self, link: str, settings: orm.Dict) -> orm.ProcessNode:
        """Submit a training."""
        inputs = {**self.exposed_inputs(TrainWorkChain, 'train'), 'settings': settings}
        return submit_once(self, link, TrainWorkChain, inputs)

    def has_point(self) -> bool:
        """Return whether a point is left to train."""
        return bool(self.ctx.waiting)

    def train_points(self) -> Any:
        """Train the next points; those side by side have about the same size of batch, and take about as long."""
        names = self._next('waiting')
        n_points = len(self.ctx.points)
        self.report(f'training {", ".join(names)} of {n_points} points, {len(self.ctx.waiting)} are left')
        return ToContext(**{name: self._train(name, self.ctx.points[name]) for name in names})

    def tabulate(self) -> Any:
        """Put the errors and costs of all points into a table."""
        nodes: dict[str, orm.Dict] = dict(self.ctx.points)
        for name in self.ctx.points:
            for attempt, results in output_namespace(self.ctx[name], 'results').items():
                nodes[f'{name}_{attempt}'] = results
        with disable_caching():  # the same trainings at another time cost something else
            self.ctx.table = tabulate_grid(**nodes)
        rows = self.ctx.table['grid']
        for row in rows:
            self.report(_sentence(row))
        if not self.ctx.table['recommended']:
            self.out('table', self.ctx.table)
            return self.exit_codes.ERROR_ALL_POINTS_FAILED.format(n_points=len(rows), reason=rows[0]['reason'])
        return None

    def wants_committee(self) -> bool:
        """Return whether to look for a number of members; only an ensemble has one."""
        search = from_dict(TuningSettings, self.inputs.search.get_dict())
        ensemble = self.inputs.settings.get_dict().get('uncertainty', 'ensemble') == 'ensemble'
        return bool(ensemble and search.max_members)

    def train_committee(self) -> Any:
        """Train the largest committee."""
        settings = largest_committee(self.inputs.settings, self.inputs.search, self.ctx.table)
        self.report(f'training a committee of {len(settings["seeds"])} at the best point')
        return ToContext(committee=self._train('committee', settings))

    def prepare_members(self) -> Any:
        """Take the members out of the committee."""
        training = self.ctx.committee
        if not training.is_finished_ok:
            return self._without_committee(training)
        assembled = training.outputs.model.creator
        members = assembled.base.links.get_incoming(node_class=MlipModelData).all_nodes()
        self.ctx.members = {f'member_{member.seeds[0]:010d}': member for member in members}
        self.ctx.unevaluated = sorted(self.ctx.members)
        results = output_namespace(training, 'results')
        self.ctx.frames = validation_frames(self.inputs.train.dataset, results[min(results)])
        return None

    def has_member(self) -> bool:
        """Return whether a member is left to evaluate."""
        return bool(self.ctx.unevaluated)

    def evaluate_members(self) -> Any:
        """Evaluate the next members on the validation frames."""
        inputs = {**self.exposed_inputs(MaceEvaluateCalculation, 'evaluate'), 'configurations': self.ctx.frames}
        return ToContext(
            **{
                name: submit_once(self, name, MaceEvaluateCalculation, {**inputs, 'model': self.ctx.members[name]})
                for name in self._next('unevaluated')
            }
        )

    def recommend(self) -> Any:
        """Return the table and the settings that it recommends."""
        evaluated = {name: self.ctx[name] for name in self.ctx.members}
        failed = next((job for job in evaluated.values() if not job.is_finished_ok), None)
        if failed is not None:
            return self._without_committee(failed)
        if evaluated:
            evaluations = {name: job.outputs.evaluation for name, job in evaluated.items()}
            self.ctx.table = tuning_table(self.inputs.search, self.ctx.table, **evaluations)
            for row in self.ctx.table['committee']:
                self.report(f'{row["n_members"]} members: rank correlation {row["spearman"]:.3f} with all')
        self.out('table', self.ctx.table)
        found = recommended_settings(self.inputs.settings, self.inputs.search, self.ctx.table)
        self.out('settings', found['settings'])
        self.out('training', found['training'])
        words = ', '.join(f'{name} {value:g}' for name, value in self.ctx.table['recommended'].items())
        self.report(f'recommended: {words}')
        return None

    def _without_committee(self, process: orm.ProcessNode) -> Any:
        """Return the table of the grid alone, and the exit code that says why."""
        self.out('table', self.ctx.table)
        return self.exit_codes.ERROR_COMMITTEE_FAILED.format(reason=reason_of(process))


def _sentence(row: dict[str, Any]) -> str:
    """Return one row of the grid in words."""
    point = f'lr {row["lr"]:g}, batch_size {row["batch_size"]}'
    if row['status'] != 'ok':
        return f'{point}: {row["reason"]}'
    return (
        f'{point}: force RMSE {1000 * row["force_rmse"]:.1f} meV/Å, energy RMSE '
        f'{1000 * row["energy_rmse_per_atom"]:.2f} meV/atom, {row["member_s"]:.0f} s per member'
    )
