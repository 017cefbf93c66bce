"""Label frames with a DFT code, or a cheaper teacher: no label lost, none computed twice."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import WorkChain, append_, if_, while_

from aiida_mlipal.calculations.functions.labels import (
    CHUNK_SIZE,
    assemble_labels,
    chunk_key,
    missing_frames,
    no_labels,
    split_into_chunks,
)
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.level_of_theory import digest
from aiida_mlipal.workflows.concurrency import allowed_lanes
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.engines.base import Task
from aiida_mlipal.workflows.lane import LabelLaneWorkChain
from aiida_mlipal.workflows.outputs import output_namespace

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
    """Check the engine's inputs before anything runs."""
    if 'engine' not in inputs or 'engine_inputs' not in inputs:
        return None
    try:
        engine = load_engine(inputs['engine'].value)
    except ValueError as exception:
        return str(exception)
    if inputs['max_concurrent'].value < 1:
        return f'`max_concurrent` is {inputs["max_concurrent"].value}, expected 1 or more.'
    return engine.validate(inputs['engine_inputs'])


class LabelWorkChain(WorkChain):
    """Energy, forces and stress for every frame; what cannot be labelled stays as a row with its reason."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input('configurations', valid_type=ConfigurationsData, help='The frames to label.')
        spec.input('engine', valid_type=orm.Str, help='Name of the label engine: quantumespresso or ase.')
        spec.input_namespace('engine_inputs', dynamic=True, help='Code, parameters and so on; see the engine.')
        spec.input(
            'checks',
            valid_type=orm.Dict,
            default=lambda: orm.Dict({'max_force': 100.0}),
            help='Thresholds above which a label is rejected: `max_force` (eV/Å).',
        )
        spec.input(
            'max_concurrent', valid_type=orm.Int, default=lambda: orm.Int(32), help='Calculations at the same time.'
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
                cls.run_chunk,
                cls.collect_chunk,
            ),
            if_(cls.has_labels)(cls.assemble).else_(cls.finish_empty),
        )
        spec.output('labels', valid_type=ConfigurationsData, help='All frames, labelled or rejected with a reason.')
        spec.output('level_of_theory', valid_type=orm.Dict, help='What the labels mean.')
        spec.exit_code(
            410,
            'ERROR_ALL_LABELS_FAILED',
            message='None of the {n_frames} frames could be labelled. The first reason: {reason}',
        )

    def describe_level_of_theory(self) -> None:
        """Record what the labels will mean."""
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

    def run_chunk(self) -> None:
        """Start the lanes of the next chunk, the expensive frames first."""
        engine = load_engine(self.inputs.engine.value)
        tasks = engine.tasks(self.ctx.chunks[0], self.inputs.engine_inputs)
        lanes = _distribute(tasks, allowed_lanes(min(self.inputs.max_concurrent.value, len(tasks))))
        self.ctx.lanes = []
        for lane in lanes:
            process = self.submit(
                LabelLaneWorkChain,
                engine=self.inputs.engine,
                engine_inputs=self.inputs.engine_inputs,
                tasks={label: tasks[label].inputs for label in lane},
            )
            self.to_context(lanes=append_(process))

    def collect_chunk(self) -> None:
        """Turn what the lanes left into a label chunk."""
        results = {label: node for lane in self.ctx.lanes for label, node in output_namespace(lane, 'results').items()}
        frames = self.ctx.chunks.pop(0)
        chunk = load_engine(self.inputs.engine.value).collect(
            frames, self.ctx.level_of_theory, self.inputs.checks, results
        )
        n_labelled = int(chunk.configurations.is_labelled.sum())
        self.report(f'{frames.n_frames} frames: {n_labelled} labelled, {frames.n_frames - n_labelled} rejected')
        self.ctx.sources.append(chunk)

    def has_labels(self) -> bool:
        """Return whether there is anything to put together."""
        return bool(self.ctx.sources)

    def assemble(self) -> Any:
        """Return all frames with their labels, known and new."""
        sources = {chunk_key(index): node for index, node in enumerate(self.ctx.sources)}
        labels = assemble_labels(self.inputs.configurations, **sources)
        self.out('labels', labels)
        if not labels.configurations.is_labelled.any():
            reason = labels.configurations.reason[0]
            return self.exit_codes.ERROR_ALL_LABELS_FAILED.format(n_frames=labels.n_frames, reason=reason)
        return None

    def finish_empty(self) -> None:
        """Return the empty set: nothing was asked for."""
        self.out('labels', no_labels(self.inputs.configurations, self.ctx.level_of_theory))


def _distribute(tasks: dict[str, Task], n_lanes: int) -> list[list[str]]:
    """Spread tasks over lanes, longest first, each to the lane with least to do (Graham's LPT rule)."""
    lanes: list[list[str]] = [[] for _ in range(min(n_lanes, len(tasks)))]
    loads = [0.0] * len(lanes)
    for label in sorted(tasks, key=lambda label: (-tasks[label].cost, label)):
        lane = loads.index(min(loads))
        lanes[lane].append(label)
        loads[lane] += tasks[label].cost
    return lanes
