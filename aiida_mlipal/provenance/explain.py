"""Why was this frame taken, and why was that one not? Read from the graph, without running anything again."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.common.links import LinkType

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.provenance.frames import Place, places_of
from aiida_mlipal.provenance.labels import group_reasons
from aiida_mlipal.provenance.stories import FrameStory, Label, Origin, SelectionSummary, Verdict, Window

__all__ = ('explain_frame', 'summarise')


def summarise(node: SelectionData) -> SelectionSummary:
    """Return what a decision did with all its candidates."""
    decision = node.decision
    reasons = {
        klass: group_reasons(decision.reason[decision.klass == klass].tolist())
        for klass, count in decision.counts.items()
        if count
    }
    return SelectionSummary(
        selection=node.pk, iteration=decision.iteration, method=decision.method, seed=decision.seed,
        n_candidates=len(decision), counts=decision.counts, reasons=reasons, notes=decision.notes,
        settings=decision.settings, window=_window(node),
    )  # fmt: skip


def explain_frame(frame: str) -> FrameStory:
    """Return everything that the graph knows of the frame with this identity."""
    held = places_of(frame, ConfigurationsData)
    datasets = {place.node.pk: _role(place) for place in held if _is_dataset(place.node)}
    return FrameStory(
        frame_id=frame,
        origin=_origin(held[0]) if held else None,
        decisions=[_verdict(place) for place in places_of(frame, SelectionData)],
        label=_label(frame, held),
        datasets=datasets,
        models=_models([pk for pk, role in datasets.items() if role in ('train', 'validation')]),
    )


def _named(process: orm.ProcessNode | None) -> str:
    return '' if process is None else f'{process.process_label}<{process.pk}>'


def _role(place: Place) -> str:
    frames = place.node.configurations
    role = str(frames.role[place.row])
    return role if frames.is_labelled[place.row] else str(frames.status[place.row])


def _origin(place: Place) -> Origin:
    frames, row = place.node.configurations, place.row
    temperature = float(frames.temperature[row])
    return Origin(
        node=place.node.pk,
        maker=_named(place.node.creator),
        plan=str(frames.origin[row]),
        trajectory=str(frames.trajectory[row]),
        step=int(frames.step[row]),
        temperature=None if np.isnan(temperature) else temperature,
        parent=str(frames.parent[row]),
        formula=frames.atoms(row).get_chemical_formula(),
    )


def _verdict(place: Place) -> Verdict:
    node, row = place.node, place.row
    decision = node.decision
    left_over = decision.klass == 'candidate'
    better = int((decision.gain[left_over] > decision.gain[row]).sum())
    rank = int(decision.rank[row])
    scores = {name: _number(getattr(decision, name)[row]) for name in ('uncertainty', 'calibrated', 'distance', 'gain')}
    creator = node.creator
    return Verdict(
        selection=node.pk,
        campaign=creator.caller.pk if creator is not None and creator.caller is not None else None,
        iteration=decision.iteration,
        method=decision.method,
        klass=str(decision.klass[row]),
        reason=str(decision.reason[row]),
        rank=None if rank < 0 else rank,
        place=better + 1 if left_over[row] and scores['gain'] is not None else None,
        n_candidates=int(left_over.sum()),
        n_taken=int((decision.rank >= 0).sum()),
        window=_window(node),
        **scores,
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _window(node: SelectionData) -> Window:
    """Return the trust window of a decision and the frames that it was calibrated on."""
    calibration = None if node.creator is None else node.creator.base.links.get_incoming(
        link_label_filter='calibration'
    ).first()  # fmt: skip
    if calibration is None or not calibration.node.get_dict().get('fitted'):
        pk = None if calibration is None else calibration.node.pk
        return Window(thresholds=node.decision.thresholds, calibration=pk, n_frames=0, frame_ids=[])
    frames: list[str] = []
    creator = calibration.node.creator
    if creator is not None:
        inputs = creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC).nested()
        known, predicted = inputs['dataset'].configurations, inputs['evaluation'].evaluation
        used = known.has_role('calibration') & known.is_labelled & np.isin(known.frame_id, predicted.frame_id)
        frames = known.frame_id[used].tolist()
    return Window(
        thresholds=node.decision.thresholds,
        calibration=calibration.node.pk,
        n_frames=calibration.node.get_dict()['n_frames'],
        frame_ids=frames,
    )


def _label(frame: str, held: list[Place]) -> Label | None:
    """Return the label as the first node has it that says more of the frame than that it is unlabelled."""
    place = next((place for place in held if place.node.configurations.status[place.row] != 'unlabelled'), None)
    if place is None:
        return None
    last = held[-1].node.configurations  # judged together with others, a label may have been rejected later
    cost = _cost(frame)
    return Label(
        node=place.node.pk,
        calculation=_calculation(place),
        status=str(last.status[held[-1].row]) if last.status[held[-1].row] != 'unlabelled' else _status(place),
        reason=str(last.reason[held[-1].row]),
        core_s=cost.get('core_s'),
        n_attempts=cost.get('n_attempts'),
    )


def _status(place: Place) -> str:
    return str(place.node.configurations.status[place.row])


def _calculation(place: Place) -> str:
    """Return the job that computed a label: what collected it says from which output each frame comes."""
    creator = place.node.creator
    if creator is None or isinstance(creator, orm.CalcJobNode):
        return _named(creator) or 'another program: it was imported'
    source = creator.base.links.get_incoming(link_label_filter=frame_key(place.row)).first()
    return _named(source.node.creator if source is not None and source.node.creator is not None else creator)


def _cost(frame: str) -> dict[str, Any]:
    """Return what the label took, from the newest record of it."""
    query = orm.QueryBuilder().append(
        orm.CalcFunctionNode, filters={'attributes.process_label': 'collect_costs'}, tag='collected'
    )
    query.append(
        orm.Dict, with_incoming='collected', filters={'attributes.frame_ids': {'contains': [frame]}}, tag='costs'
    )
    query.order_by({'costs': {'id': 'desc'}}).limit(1)
    found = query.first(flat=True)
    if found is None:
        return {}
    row = found['frame_ids'].index(frame)
    return {name: found[name][row] for name in ('core_s', 'n_attempts')}


def _is_dataset(node: orm.Data) -> bool:
    """Return whether models are trained on a node, or it was put together for that."""
    creator = node.creator
    if creator is not None and creator.process_label == 'grow_dataset':
        return True
    return any(process.process_label == 'MaceTrainCalculation' for process in _consumers(node))


def _consumers(node: orm.Data) -> list[orm.ProcessNode]:
    found: list[orm.ProcessNode] = node.base.links.get_outgoing(link_type=LinkType.INPUT_CALC).all_nodes()
    return found


def _models(datasets: list[int]) -> list[int]:
    """Return the committees (or members without one) that came out of trainings on ``datasets``."""
    if not datasets:
        return []
    query = orm.QueryBuilder().append(orm.Node, filters={'id': {'in': datasets}}, tag='dataset')
    query.append(
        orm.CalcJobNode, with_incoming='dataset', tag='training',
        filters={'attributes.process_label': 'MaceTrainCalculation'},
    )  # fmt: skip
    query.append(MlipModelData, with_incoming='training', project='*', tag='model').distinct()
    models: set[int] = set()
    for member in query.all(flat=True):
        committees = [
            link.node.pk
            for process in _consumers(member)
            if process.process_label == 'assemble_committee'
            for link in process.base.links.get_outgoing(link_type=LinkType.CREATE, node_class=MlipModelData).all()
        ]
        models.update(committees or [member.pk])
    return sorted(models)
