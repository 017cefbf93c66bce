"""Where a campaign stands, read from the graph alone: stage, iteration, labels, errors, training, budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiida import orm

from aiida_mlipal.calculations.functions.committee import training_dataset
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.provenance.label_progress import LabelCounts, failures_so_far, label_counts
from aiida_mlipal.provenance.labels import LabelCost, group_reasons, label_costs, rejected_labels
from aiida_mlipal.provenance.processes import Process, called_by, created_by

__all__ = (
    'CampaignStatus',
    'committees_of',
    'coverage_of',
    'decisions_of',
    'read_status',
    'training_sizes',
)

#: process called by the campaign -> what the campaign is doing while it runs.
STAGES: Final = {
    'SeedsWorkChain': 'generating seeds',
    'LabelWorkChain': 'labelling',
    'PrescreenWorkChain': 'prescreening',
    'TrainWorkChain': 'training',
    'ExploreWorkChain': 'exploring',
    'MaceEvaluateCalculation': 'evaluating',
    'ValidateWorkChain': 'validating',
}


@dataclass(frozen=True, kw_only=True)
class CampaignStatus:
    """State of one campaign. Errors in eV/Å and eV per atom, as in the last decision."""

    pk: int
    state: str
    exit_status: int | None
    exit_message: str
    started: datetime
    elapsed_s: float
    stages: tuple[str, ...]  #: what runs now; several run side by side
    iteration: int  #: the current one, or the last; -1 before the first
    labels: LabelCounts
    stage_labels: LabelCounts  #: of the labelling that runs now
    rejections: tuple[tuple[str, int], ...]  #: why labels failed and how many, the most frequent reason first
    costs: tuple[LabelCost, ...]  #: of the labels computed so far
    paid_labels: int  #: labels that count against the budget
    budget: dict[str, Any]
    decisions: tuple[dict[str, Any], ...] = ()
    coverage: tuple[dict[str, Any], ...] = ()  #: of the intervals of each iteration, by its new random labels
    training_jobs: tuple[int, ...] = ()  #: PKs of the training jobs that run now
    failures: tuple[str, ...] = field(default=())  #: processes that failed, labels excluded

    @property
    def is_active(self) -> bool:
        """Whether the campaign goes on."""
        return self.state not in ('finished', 'excepted', 'killed')

    @property
    def last(self) -> dict[str, Any]:
        """The last decision, empty before the first."""
        return self.decisions[-1] if self.decisions else {}

    @property
    def alarms(self) -> tuple[str, ...]:
        """What the newest labels of the random stream say against the calibration, nothing if it held."""
        return tuple(self.coverage[-1]['messages']) if self.coverage else ()


def decisions_of(processes: Sequence[Process]) -> list[dict[str, Any]]:
    """Return the decisions among the results of ``processes``, in the order of iterations."""
    pks = [process.pk for process in processes if process.name == 'decide_iteration']
    return sorted((node.get_dict() for node in created_by(pks, orm.Dict).values()), key=lambda item: item['iteration'])


def coverage_of(processes: Sequence[Process]) -> list[dict[str, Any]]:
    """Return the checks of the calibrations among the results of ``processes`` with their ``iteration``, in order.

    Iterations in which nothing could be tested, such as the first, are left out.
    """
    checks = []
    for process in processes:
        if process.name == 'check_calibration' and process.is_ok:
            inputs = orm.load_node(process.pk).base.links.get_incoming(link_label_filter='selection').one().node
            (result,) = created_by([process.pk], orm.Dict).values()
            checks.append({'iteration': inputs.base.attributes.get('iteration'), 'pk': result.pk, **result.get_dict()})
    return sorted((check for check in checks if check['tested']), key=lambda check: check['iteration'])


def committees_of(processes: Sequence[Process]) -> list[MlipModelData]:
    """Return the committees that ``processes`` made, in the order in which they were trained."""
    pks = [process.pk for process in processes if process.name == 'assemble_committee']
    return [model for _, model in sorted(created_by(pks, MlipModelData).items())]


def training_sizes(committees: Sequence[MlipModelData]) -> dict[str, int]:
    """Return how many labelled frames the model of each iteration was trained on, isolated atoms not counted."""
    sizes = {}
    for index, committee in enumerate(committees):
        frames = training_dataset(committee).configurations
        sizes[f'iteration_{index:02d}'] = int((frames.is_labelled & frames.has_role('train', 'validation')).sum())
    return sizes


def read_status(node: orm.WorkChainNode) -> CampaignStatus:
    """Return the state of the campaign ``node``, running or not."""
    processes = called_by(node)
    own = [process for process in processes if process.caller == node.pk]
    active = [process for process in own if process.is_active]
    labelling = [process for process in processes if process.name == 'LabelWorkChain']
    own_pks = {process.pk for process in own}
    counts = {process.pk: label_counts(process, processes) for process in labelling}
    costs = label_costs(processes)
    reasons = [label.reason for label in rejected_labels(processes, costs)]
    for process in labelling:
        if process.is_active:
            reasons += failures_so_far(process, processes)
    plans = sum(process.name == 'plan_iteration' and process.is_ok for process in own)
    running = (process for process in active if process.name in STAGES)
    state = node.process_state.value if node.process_state else 'created'
    end = datetime.now(UTC) if state not in ('finished', 'excepted', 'killed') else node.mtime
    return CampaignStatus(
        pk=node.pk,
        state=state,
        exit_status=node.exit_status,
        exit_message=node.exit_message or '',
        started=node.ctime,
        elapsed_s=(end - node.ctime).total_seconds(),
        stages=tuple(dict.fromkeys(STAGES[process.name] for process in running)),
        iteration=plans - 1,
        labels=sum((count for count, _ in counts.values()), LabelCounts()),
        stage_labels=sum((counts[p.pk][0] for p in labelling if p.is_active), LabelCounts()),
        rejections=tuple(group_reasons(reasons)),
        costs=tuple(costs.values()),
        paid_labels=sum(counts[process.pk][1] for process in labelling if process.pk in own_pks),
        budget=node.inputs.budget.get_dict() if 'budget' in node.inputs else {},
        decisions=tuple(decisions_of(processes)),
        coverage=tuple(coverage_of(processes)),
        training_jobs=tuple(p.pk for p in processes if p.is_active and p.name == 'MaceTrainCalculation'),
        failures=tuple(
            f'{process.name}<{process.pk}>: {process.exit_message or process.state}'
            for process in processes
            if process.name in (*STAGES, 'MaceTrainCalculation', 'MaceExploreCalculation')
            and not process.is_active
            and not process.is_ok
        ),
    )
