"""Label frames with a DFT code, or a cheaper teacher: no label lost, none computed twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiida import orm
from aiida.engine import WorkChain, append_, if_, while_
from aiida.manage.caching import disable_caching

from aiida_mlipal.calculations.functions.labels import (
    CHUNK_SIZE,
    assemble_labels,
    chunk_key,
    missing_frames,
    no_labels,
    split_into_chunks,
)
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science.label_checks import LabelChecks, failed_share
from aiida_mlipal.science.level_of_theory import digest
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.workflows.attempts import attempts, shared_label, shared_output, shared_tasks
from aiida_mlipal.workflows.concurrency import allowed_lanes
from aiida_mlipal.workflows.costs import collect_costs, measured_costs
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.engines.base import unfit_frames
from aiida_mlipal.workflows.lane import LabelLaneWorkChain
from aiida_mlipal.workflows.once import submit_once
from aiida_mlipal.workflows.timing import cores_of

__all__ = ('LabelWorkChain', 'known_labels')


def known_labels(frame_ids: list[str], level_of_theory_hash: str) -> list[ConfigurationsData]:
    """Return label chunks of this profile that hold accepted labels of these frames, oldest first, fewest needed."""
    wanted = set(frame_ids)
    query = orm.QueryBuilder().append(
        ConfigurationsData,
        filters={'attributes.level_of_theory_hash': level_of_theory_hash, 'attributes.n_labelled': {'>': 0}},
        project=['id', 'attributes.frame_ids', 'attributes.statuses'],
    )
    chunks = []
    for pk, ids, statuses in sorted(query.all(), key=lambda row: row[0]):
        found = {frame for frame, status in zip(ids or [], statuses or [], strict=True) if status == 'labelled'}
        if wanted & found:
            chunks.append(pk)
            wanted -= found
    return [orm.load_node(pk) for pk in chunks]


def _validate(inputs: Any, _: Any) -> str | None:
    """Check the engine's inputs before anything runs, as far as they are given: defaults may come after this."""
    if 'engine' not in inputs or 'engine_inputs' not in inputs:
        return None
    try:
        engine = load_engine(inputs['engine'].value)
    except ValueError as exception:
        return str(exception)
    for name in ('max_concurrent', 'max_attempts', 'frames_per_job'):
        if name in inputs and inputs[name].value < 1:
            return f'`{name}` is {inputs[name].value}, expected 1 or more.'
    try:
        checks = from_dict(LabelChecks, inputs['checks'].get_dict() if 'checks' in inputs else {})
    except ValueError as exception:
        return f'`checks`: {exception}'
    problem = engine.validate(inputs['engine_inputs'])
    if problem is not None or 'configurations' not in inputs:
        return problem
    problems = unfit_frames(engine, inputs['configurations'].configurations, inputs['engine_inputs'], checks)
    more = f' (and {len(problems) - 3} more problems)' if len(problems) > 3 else ''
    return ' '.join(problems[:3]) + more if problems else None


class LabelWorkChain(WorkChain):
    """Energy, forces and stress for every frame; what cannot be labelled stays as a row with its reason."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('configurations', valid_type=ConfigurationsData, help='The frames to label.')
        spec.input('engine', valid_type=orm.Str, help='Name of the label engine, see `engine_names`.')
        spec.input_namespace('engine_inputs', dynamic=True, help='Code, parameters and so on; see the engine.')
        spec.input(
            'checks',
            valid_type=orm.Dict,
            default=lambda: orm.Dict(),
            help='LabelChecks: thresholds above which a label is rejected, the share of failures that is tolerated.',
        )
        spec.input(
            'expected', valid_type=EvaluationData, required=False, help='What a committee says of the frames, to check.'
        )
        spec.input(
            'max_concurrent', valid_type=orm.Int, default=lambda: orm.Int(32), help='Calculations at the same time.'
        )
        spec.input(
            'max_attempts',
            valid_type=orm.Int,
            default=lambda: orm.Int(4),
            help='Processes per frame, the first included.',
        )
        spec.input(
            'frames_per_job',
            valid_type=orm.Int,
            default=lambda: orm.Int(16),
            help='Short calculations that may share one job, where the engine can do that; 1 for none.',
        )
        spec.input(
            'reuse',
            valid_type=orm.Bool,
            default=lambda: orm.Bool(True),
            help='Take labels of the same frame at the same level of theory from anywhere in the profile.',
        )
        spec.inputs.validator = _validate
        spec.outline(
            cls.describe_level_of_theory,
            cls.find_known_labels,
            while_(cls.has_chunk)(
                cls.plan_chunk,
                cls.run_chunk,
                cls.collect_chunk,
            ),
            if_(cls.has_labels)(cls.assemble).else_(cls.finish_empty),
        )
        spec.output('labels', valid_type=ConfigurationsData, help='All frames, labelled or rejected with a reason.')
        spec.output('level_of_theory', valid_type=orm.Dict, help='What the labels mean.')
        spec.output_namespace('costs', dynamic=True, valid_type=orm.Dict, help='What each new label cost, by chunk.')
        spec.exit_code(
            410,
            'ERROR_ALL_LABELS_FAILED',
            message='None of the {n_frames} frames could be labelled. The first reason: {reason}',
        )
        spec.exit_code(
            411,
            'ERROR_TOO_MANY_LABELS_FAILED',
            message='{share:.0%} of the frames could not be labelled, more than `max_failed_share` of the checks '
            '({limit:.0%}). The first reason: {reason}',
        )

    def describe_level_of_theory(self) -> None:
        """Record what the labels will mean."""
        self.ctx.n_chunks = 0
        self.ctx.level_of_theory = load_engine(self.inputs.engine.value).describe(self.inputs.engine_inputs)
        self.out('level_of_theory', self.ctx.level_of_theory)

    def find_known_labels(self) -> None:
        """Find labels that exist already, and cut the rest into chunks."""
        frames = self.inputs.configurations
        ids = frames.configurations.frame_id.tolist()
        level = digest(self.ctx.level_of_theory.get_dict())
        self.ctx.sources = known_labels(ids, level) if self.inputs.reuse.value else []
        if self.ctx.sources or len(set(ids)) < len(ids):
            known = {f'known_{index:04d}': node for index, node in enumerate(self.ctx.sources)}
            frames = missing_frames(frames, **known)
            self.report(f'{len(ids)} frames, {frames.n_frames} to be computed, from {len(known)} known chunks the rest')
        if frames.n_frames > CHUNK_SIZE:
            chunks = split_into_chunks(frames)
            self.ctx.chunks = [chunks[chunk_key(index)] for index in range(len(chunks))]
        else:
            self.ctx.chunks = [frames] if frames.n_frames else []

    def has_chunk(self) -> bool:
        """Return whether a chunk is left."""
        return bool(self.ctx.chunks)

    def plan_chunk(self) -> None:
        """Spread the frames of the next chunk over lanes, the expensive ones first."""
        engine = load_engine(self.inputs.engine.value)
        tasks = engine.tasks(self.ctx.chunks[0], self.inputs.engine_inputs)
        model = measured_costs(digest(self.ctx.level_of_theory.get_dict()))
        costs = {label: model.predict(task.size) for label, task in tasks.items()}
        lanes = _distribute(costs, allowed_lanes(min(self.inputs.max_concurrent.value, len(tasks))))
        pks = {label: {name: node.pk for name, node in task.inputs.items()} for label, task in tasks.items()}
        self.ctx.plan = [[(label, pks[label], costs[label]) for label in lane] for lane in lanes]
        cores = cores_of(self.inputs.engine_inputs['options'].get_dict().get('resources') or {})
        self.ctx.pace = 1.0 / cores if model.n_observations else 0.0

    def run_chunk(self) -> None:
        """Start the lanes of the next chunk."""
        self.ctx.lanes = []
        for number, tasks in enumerate(self.ctx.plan):
            inputs = {
                'engine': self.inputs.engine,
                'engine_inputs': self.inputs.engine_inputs,
                'max_attempts': self.inputs.max_attempts,
                'max_shared': self.inputs.frames_per_job,
                'pace': self.ctx.pace,
                'tasks': tasks,
            }
            link = f'{chunk_key(self.ctx.n_chunks)}_lane_{number:03d}'
            self.to_context(lanes=append_(submit_once(self, link, LabelLaneWorkChain, inputs)))

    def collect_chunk(self) -> None:
        """Turn what the lanes left into a label chunk."""
        engine = load_engine(self.inputs.engine.value)
        last = {task: processes[-1] for lane in self.ctx.lanes for task, processes in attempts(lane).items()}
        tasks = {process: task for task, process in last.items()}
        shared = [process for process in tasks if shared_tasks(process)]
        found = {task: engine.result(process) for process, task in tasks.items() if process not in shared}
        found |= {shared_label(number): shared_output(process)[0] for number, process in enumerate(shared)}
        results = {label: output for label, output in found.items() if output is not None}
        frames = self.ctx.chunks.pop(0)
        chunk = engine.collect(frames, self.ctx.level_of_theory, results)
        n_labelled = int(chunk.configurations.is_labelled.sum())
        self.report(f'{frames.n_frames} frames: {n_labelled} computed, {frames.n_frames - n_labelled} failed')
        with disable_caching():  # the same frames at another time cost something else
            costs = collect_costs(chunk, self.inputs.engine)
        self.out(f'costs.{chunk_key(self.ctx.n_chunks)}', costs)
        self.ctx.n_chunks += 1
        self.ctx.sources.append(chunk)

    def has_labels(self) -> bool:
        """Return whether there is anything to put together."""
        return bool(self.ctx.sources)

    def assemble(self) -> Any:
        """Return all frames with their labels, known and new."""
        sources = {chunk_key(index): node for index, node in enumerate(self.ctx.sources)}
        if 'expected' in self.inputs:
            sources['expected'] = self.inputs.expected
        labels = assemble_labels(self.inputs.configurations, self.inputs.checks, **sources)
        self.out('labels', labels)
        frames = labels.configurations
        rejected = frames.reason[frames.status == 'rejected'].tolist()
        for reason, count in Counter(rejected).most_common():
            self.report(f'{count} of {len(frames)} rejected: {reason}')
        if not frames.is_labelled.any():
            return self.exit_codes.ERROR_ALL_LABELS_FAILED.format(n_frames=len(frames), reason=rejected[0])
        share, limit = failed_share(frames), from_dict(LabelChecks, self.inputs.checks.get_dict()).max_failed_share
        if share > limit:
            return self.exit_codes.ERROR_TOO_MANY_LABELS_FAILED.format(share=share, limit=limit, reason=rejected[0])
        return None

    def finish_empty(self) -> None:
        """Return the empty set: nothing was asked for."""
        self.out('labels', no_labels(self.inputs.configurations, self.ctx.level_of_theory))


def _distribute(costs: dict[str, float], n_lanes: int) -> list[list[str]]:
    """Spread tasks over lanes, longest first, each to the lane with least to do (Graham's LPT rule)."""
    lanes: list[list[str]] = [[] for _ in range(min(n_lanes, len(costs)))]
    loads = [0.0] * len(lanes)
    for label in sorted(costs, key=lambda label: (-costs[label], label)):
        lane = loads.index(min(loads))
        lanes[lane].append(label)
        loads[lane] += costs[label]
    return lanes
