"""Everything the report shows, read from the graph of a campaign, finished or running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from aiida import orm
from numpy.typing import NDArray

from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.provenance.control import arms_of, comparison_of
from aiida_mlipal.provenance.labels import RejectedLabel, label_costs, rejected_labels
from aiida_mlipal.provenance.processes import Process, called_by, created_by
from aiida_mlipal.provenance.status import CampaignStatus, committees_of, read_status, training_sizes
from aiida_mlipal.report.cost import StageCost, cost_per_stage
from aiida_mlipal.science.calibration import Calibration, calibrate
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.uncertainty import NEED_TRAINING_FRAMES, measure, parts_of

__all__ = ('Predictions', 'Record', 'SelectionRecord', 'collect')


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Labels of the random stream and what a model that never saw them says, row by row."""

    model: str
    frames: Configurations
    evaluation: Evaluation
    calibration: Calibration | None  #: fitted on the calibration frames
    uncertainty: NDArray[np.float64]  #: of each atom, (A,), by the measure that is calibrated

    @property
    def is_spread(self) -> bool:
        """Whether the uncertainty is a spread of forces, which can be held against errors as it is."""
        return self.calibration is None or self.calibration.uncertainty in ('forces_max', 'forces_mean')

    def on_test_atoms(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return uncertainties (A,), expected errors (A,) and errors (A, 3) on test frames; on all if there is no test.

        Without a calibration the expected errors are the uncertainties.
        """
        test = self.frames.role == 'test'
        used = test if self.calibration is not None and test.any() else np.ones(len(test), dtype=bool)
        rows = np.repeat(used, self.frames.n_atoms)
        raw = self.uncertainty[rows]
        expected = raw if self.calibration is None else self.calibration.error_map(raw)
        return raw, expected, (self.evaluation.forces - self.frames.forces)[rows]


@dataclass(frozen=True, kw_only=True)
class SelectionRecord:
    """One selection, with the descriptors of its candidates (row by row)."""

    pk: int
    iteration: int
    attributes: dict[str, Any]
    columns: dict[str, Any]
    descriptors: np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the report shows of one campaign."""

    uuid: str
    label: str
    description: str
    status: CampaignStatus
    settings: dict[str, dict[str, Any]]
    formulas: list[str]
    validation: dict[str, Any]
    training_sizes: dict[str, int]  #: model -> labelled frames it was trained on, without isolated atoms
    predictions: Predictions | None
    selections: list[SelectionRecord]
    drifts: list[dict[str, Any]]  #: by iteration, see :func:`aiida_mlipal.calculations.functions.drift.measure_drift`
    costs: list[StageCost]
    rejected: list[RejectedLabel]
    dataset: Configurations | None
    level_of_theory: dict[str, Any]
    software: dict[str, str]
    model: dict[str, Any]
    comparison: dict[str, Any]  #: with a control arm, see :mod:`aiida_mlipal.calculations.functions.control`


def collect(node: orm.WorkChainNode) -> Record:
    """Return the record of the campaign ``node``. What does not exist yet is empty.

    With a control arm it is the record of the campaign itself, and what came out of the comparison.
    """
    comparison = comparison_of(node)
    node = arms_of(node).get('campaign', node)
    processes = called_by(node)
    status = read_status(node)
    dataset = _dataset(node, processes)
    validation = node.outputs.validation.get_dict() if 'validation' in node.outputs else {}
    committees = committees_of(processes)
    model = node.outputs.model if 'model' in node.outputs else (committees[-1] if committees else None)
    names = ('training', 'exploration', 'selection', 'convergence', 'budget')
    return Record(
        uuid=node.uuid,
        label=node.label,
        description=node.description,
        status=status,
        settings={name: node.inputs[name].get_dict() for name in names if name in node.inputs},
        formulas=[structure.get_formula() for structure in node.inputs.seeds.structures.values()]
        if 'seeds' in node.inputs
        else [],
        validation=validation,
        training_sizes=training_sizes(committees),
        predictions=_predictions(node, processes, dataset.configurations if dataset else None),
        selections=_selections(processes),
        drifts=[
            orm.load_node(process.pk).outputs.result.get_dict()
            for process in processes
            if process.name == 'measure_drift' and process.is_ok and process.caller == node.pk
        ],
        costs=cost_per_stage(node.pk, processes),
        rejected=rejected_labels(processes, label_costs(processes)),
        dataset=dataset.configurations if dataset else None,
        level_of_theory=(dataset.level_of_theory or {}) if dataset else {},
        software=_software(processes, model),
        model=model.base.attributes.all if model else {},
        comparison=comparison,
    )


def _dataset(node: orm.WorkChainNode, processes: list[Process]) -> Any:
    """Return the newest dataset node, or None before the first labels."""
    if 'dataset' in node.outputs:
        return node.outputs.dataset
    for process in reversed(processes):
        if process.is_ok and process.caller == node.pk and process.name in ('grow_dataset', 'LabelWorkChain'):
            outputs = orm.load_node(process.pk).outputs
            return outputs.labels if 'labels' in outputs else outputs.result
    return None


def _predictions(
    node: orm.WorkChainNode, processes: list[Process], dataset: Configurations | None
) -> Predictions | None:
    """Return the final model's predictions of the random stream; before the end, the newest model's."""
    if dataset is None:
        return None
    model, nodes = _final_evaluation(processes)
    if not nodes:
        return None
    evaluations = [found.evaluation for found in nodes]
    known = set(np.concatenate([evaluation.frame_id for evaluation in evaluations]).tolist())
    stream = dataset.take(
        dataset.has_role('calibration', 'test') & dataset.is_labelled & np.isin(dataset.frame_id, sorted(known))
    )
    if len(stream) == 0:
        return None
    evaluation = _rows(evaluations, stream.frame_id.tolist())
    selection = node.inputs.selection.get_dict() if 'selection' in node.inputs else {}
    # Distances from the training frames are out: the final model has evaluated the random frames alone.
    name = selection.get('uncertainty', 'forces_max')
    name = 'forces_max' if NEED_TRAINING_FRAMES & set(parts_of(name)) else name
    found = measure(name, evaluation, evaluation.descriptors[:0])
    try:
        calibration = calibrate(
            stream,
            evaluation,
            lower_factor=selection.get('lower_factor', 1.5),
            upper_factor=selection.get('upper_factor', 10.0),
            uncertainty=name,
            decay=selection.get('calibration_decay', 1.0),
        )
    except ValueError:
        calibration = None
    return Predictions(
        model=model, frames=stream, evaluation=evaluation, calibration=calibration, uncertainty=found.per_atom
    )


def _final_evaluation(processes: list[Process]) -> tuple[str, list[EvaluationData]]:
    """Return the name of the newest evaluated model and its evaluations, that of the validation if there is one."""
    summaries = [process for process in processes if process.name == 'validation_summary']
    if summaries:
        inputs = orm.load_node(summaries[-1].pk).base.links.get_incoming(node_class=EvaluationData).all()
        last = max(inputs, key=lambda link: link.link_label)
        return last.link_label.removeprefix('evaluations__'), [last.node]
    decided = [process for process in processes if process.name == 'decide_iteration']
    if decided:
        inputs = orm.load_node(decided[-1].pk).inputs
        return f'iteration_{len(decided) - 1:02d}', [inputs.dataset_evaluation, inputs.pool_evaluation]
    return '', []


def _rows(evaluations: list[Evaluation], frame_ids: list[str]) -> Evaluation:
    """Return the rows of ``frame_ids``, each from the first evaluation that has it."""
    parts, order = [], []
    left = dict.fromkeys(frame_ids)
    for evaluation in evaluations:
        here = set(evaluation.frame_id.tolist())
        found = [frame for frame in left if frame in here]
        parts.append(evaluation.take(evaluation.index_of(found)))
        order += found
        left = {frame: None for frame in left if frame not in here}
    merged = Evaluation.concatenate(parts)
    return merged.take(merged.index_of(frame_ids))


def _selections(processes: list[Process]) -> list[SelectionRecord]:
    """Return all selections in order, with descriptors as the selecting model saw them."""
    pks = [process.pk for process in processes if process.name == 'select_frames']
    records = []
    for pk, node in sorted(created_by(pks, SelectionData).items()):
        inputs = orm.load_node(pk).inputs
        evaluation = inputs.evaluation.evaluation if 'evaluation' in inputs else None
        rows = evaluation.index_of(node.decision.frame_id) if evaluation is not None else []
        records.append(
            SelectionRecord(
                pk=node.pk,
                iteration=node.base.attributes.get('iteration'),
                attributes=node.base.attributes.all,
                columns=node.decision.columns(),
                descriptors=evaluation.descriptors[rows] if evaluation is not None else np.zeros((0, 0)),
            )
        )
    return records


def _software(processes: list[Process], model: Any) -> dict[str, str]:
    """Return the versions of what computed the labels and trained the models, and of what ran them."""
    import aiida

    import aiida_mlipal

    software = {'aiida-mlipal': aiida_mlipal.__version__, 'aiida-core': aiida.__version__}
    pw = [process.pk for process in processes if process.name == 'PwCalculation' and process.is_ok][:1]
    for outputs in created_by(pw, orm.Dict, 'output_parameters').values():
        version = outputs.get_dict().get('creator_version')
        software['Quantum ESPRESSO'] = str(version)
    if model is not None:
        software.update({name: str(version) for name, version in model.base.attributes.get('software').items()})
    return software
