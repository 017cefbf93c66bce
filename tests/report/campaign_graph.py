"""A small campaign graph, node by node: real labels (EMT copper), real decisions, and models that are noise on EMT.

It has the shape that ActiveLearningWorkChain leaves, so that what reads the graph is tested within seconds, in any
state; the integration tests run the real thing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import numpy as np
from aiida import orm
from aiida.common.exceptions import NotExistent
from aiida.common.links import LinkType
from aiida.engine import ProcessState
from ase.build import bulk
from ase.calculators.emt import EMT

from aiida_mlipal.calculations.functions.calibrate import calibrate_uncertainty, check_calibration
from aiida_mlipal.calculations.functions.committee import training_dataset
from aiida_mlipal.calculations.functions.control import common_test_set, compare_arms
from aiida_mlipal.calculations.functions.decide import decide_iteration
from aiida_mlipal.calculations.functions.drift import measure_drift
from aiida_mlipal.calculations.functions.grow import grow_dataset
from aiida_mlipal.calculations.functions.plan import start_campaign
from aiida_mlipal.calculations.functions.select import select_frames
from aiida_mlipal.calculations.functions.validate import equation_of_state_frames, validation_summary
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science import eos
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.seeds import generate, isolated_atoms

LEVEL = {'code': 'ase', 'calculator': 'emt', 'parameters': {}}
BARE = {'metadata': {'store_provenance': False}}
SETTINGS: dict[str, dict[str, Any]] = {
    'training': {'n_members': 4, 'max_num_epochs': 60},
    'exploration': {'n_steps': 500},
    'selection': {'n_labels': 10, 'random_share': 0.4, 'first_method': 'max_det'},
    'convergence': {'force_rmse': 0.05, 'energy_mae_per_atom': 0.005, 'n_test_frames': 4},
    'budget': {'max_labels': 60, 'max_iterations': 2},
}


def label(frames: Configurations, reject: int | None = None) -> Configurations:
    """Label with EMT; the row ``reject`` fails."""
    energy, stress, forces = [], [], []
    for atoms in frames.to_atoms():
        atoms.calc = EMT()
        energy.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        stress.append(atoms.get_stress() if len(atoms) > 1 else np.zeros(6))
    status = ['labelled'] * len(frames)
    reason = [''] * len(frames)
    if reject is not None:
        status[reject], reason[reject] = 'rejected', 'PwCalculation exited with 410: the SCF cycle did not converge'
    return frames.with_columns(
        energy=energy, stress=stress, forces=np.concatenate(forces), status=status, reason=reason
    )


def costs_of(frames: Configurations, reject: int | None) -> dict[str, Any]:
    """Return what each label cost: growing with its electrons, and three attempts for the row ``reject``."""
    electrons = [11.0 * count for count in frames.n_atoms.tolist()]
    attempts = [3 if row == reject else 1 for row in range(len(frames))]
    core_s = [n * 1e-4 * size**3 for n, size in zip(attempts, electrons, strict=True)]
    return {
        'frame_ids': frames.frame_id.tolist(), 'wall_s': [seconds / 2 for seconds in core_s], 'core_s': core_s,
        'n_attempts': attempts, 'n_kpoints': [8] * len(frames),
        'n_electrons': [None if row == reject else size for row, size in enumerate(electrons)],
    }  # fmt: skip


def evaluate(frames: Configurations, iteration: int) -> Evaluation:
    """Return what the committee of ``iteration`` says: EMT with an error that shrinks with the iterations."""
    labels = label(frames)
    rng = np.random.default_rng([4, iteration])
    scale = 0.4 / (1 + iteration) * (0.05 + np.linalg.norm(labels.forces, axis=1, keepdims=True))
    members = (
        labels.forces + scale * rng.normal(size=(4, *labels.forces.shape)) + 0.4 * scale * rng.normal(size=scale.shape)
    )
    energy = labels.energy + 0.02 / (1 + iteration) * labels.n_atoms * rng.normal(size=(4, len(frames)))
    spread = np.sqrt(members.var(axis=0, ddof=1).mean(axis=1))
    descriptors = []
    for atoms in labels.to_atoms():
        distances = np.sort(atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)])
        sample = np.quantile(distances, [0, 0.25, 0.5, 0.75, 1]) if len(distances) else np.zeros(5)
        descriptors.append([*sample, atoms.get_volume() / len(atoms)])
    return Evaluation(
        frame_id=frames.frame_id, n_atoms=frames.n_atoms, energy=energy.mean(axis=0), forces=members.mean(axis=0),
        stress=labels.stress, energy_std=energy.std(axis=0, ddof=1), forces_std=spread,
        stress_std=np.full(len(frames), np.nan), member_energy=energy.T,
        descriptors=np.array(descriptors),
    )  # fmt: skip


class Graph:
    """Adds processes with their links, as the engine would."""

    def __init__(self) -> None:
        self.computer = orm.Computer(
            label=f'machine-{uuid4()}',
            hostname='localhost',
            transport_type='core.local',
            scheduler_type='core.direct',
            workdir='/tmp',
        ).store()

    def process(
        self,
        kind: type[orm.ProcessNode],
        name: str,
        inputs: Mapping[str, orm.Data],
        outputs: Mapping[str, orm.Data] | None = None,
        *,
        caller: orm.ProcessNode | None = None,
        link: str | None = None,
        state: ProcessState = ProcessState.FINISHED,
        exit_status: int | None = 0,
    ) -> Any:
        """Store one process, its inputs and its outputs."""
        node = kind(computer=self.computer) if kind is orm.CalcJobNode else kind()
        work = issubclass(kind, orm.WorkflowNode)
        for label_, data in inputs.items():
            node.base.links.add_incoming(data.store(), LinkType.INPUT_WORK if work else LinkType.INPUT_CALC, label_)
        if caller is not None:
            node.base.links.add_incoming(
                caller, LinkType.CALL_WORK if work else LinkType.CALL_CALC, link or f'CALL_{name}'
            )
        node.set_process_label(name)
        node.set_process_state(state)
        if state is ProcessState.FINISHED:
            node.set_exit_status(exit_status)
            if exit_status:
                node.set_exit_message(f'{name} failed')
        if kind is orm.CalcJobNode:
            node.set_option('resources', {'num_machines': 1, 'num_mpiprocs_per_machine': 2})
        node.store()
        self.outputs(node, outputs or {})
        return node

    def outputs(self, node: orm.ProcessNode, outputs: Mapping[str, orm.Data]) -> None:
        """Attach outputs: calculations create, workflows return."""
        work = isinstance(node, orm.WorkflowNode)
        for label_, data in outputs.items():
            data.base.links.add_incoming(node, LinkType.RETURN if work else LinkType.CREATE, label_)
            data.store()

    def labelling(self, caller: Any, frames: ConfigurationsData, *, reject: int | None = None) -> Any:
        """Add a finished LabelWorkChain with one job."""
        chain = self.process(orm.WorkChainNode, 'LabelWorkChain', {'configurations': frames}, caller=caller)
        lane = self.process(orm.WorkChainNode, 'LabelLaneWorkChain', {}, caller=chain)
        chunk, labels = (
            ConfigurationsData(label(frames.configurations, reject), level_of_theory=LEVEL) for _ in range(2)
        )
        self.process(
            orm.CalcJobNode, 'AseLabelCalculation', {'configurations': frames},
            {'labels': chunk, 'results': orm.Dict({'wall_s': 12.5})}, caller=lane, link='chunk',
        )  # fmt: skip
        self.process(
            orm.CalcFunctionNode, 'assemble_labels', {'configurations': frames, 'chunk': chunk}, {'result': labels},
            caller=chain,
        )  # fmt: skip
        costs = orm.Dict(costs_of(frames.configurations, reject))
        self.process(orm.CalcFunctionNode, 'collect_costs', {'frames': frames}, {'result': costs}, caller=chain)
        self.outputs(chain, {'labels': labels, 'costs__chunk_000': costs})
        return labels

    def training(self, caller: Any, dataset: ConfigurationsData, iteration: int) -> MlipModelData:
        """Add a finished TrainWorkChain."""
        chain = self.process(orm.WorkChainNode, 'TrainWorkChain', {'dataset': dataset}, caller=caller)
        members = {f'member_{index:02d}': _member(iteration, index) for index in range(2)}
        results = {'results': orm.Dict({'wall_s': 60.0})}
        outputs = {f'models__{name}': member for name, member in members.items()}
        self.process(
            orm.CalcJobNode, 'MaceTrainCalculation', {'dataset': dataset}, {**outputs, **results}, caller=chain
        )
        model = MlipModelData.committee(list(members.values()))
        self.process(orm.CalcFunctionNode, 'assemble_committee', members, {'result': model}, caller=chain)
        self.outputs(chain, {'model': model})
        return model


def _member(iteration: int, index: int) -> MlipModelData:
    metadata = {
        'elements': ['Cu'], 'r_max': 4.5, 'dtype': 'float32', 'seeds': [10 * iteration + index],
        'level_of_theory_hash': 'x', 'software': {'mace-torch': '0.3.16', 'torch': '2.13.0'},
        'errors': {'force_rmse': 0.1}, 'settings_hash': 'y',
    }  # fmt: skip
    return MlipModelData([io.BytesIO(f'{iteration} {index}'.encode())], metadata=metadata)


_KEPT: dict[str, str] = {}


def finished_campaign() -> orm.WorkChainNode:
    """Return a finished campaign, built once for all tests that only read it (and again if the storage was cleaned)."""
    return _kept('finished', {})


def running_campaign() -> orm.WorkChainNode:
    """Return a campaign at work on the labels of its second iteration."""
    return _kept('running', {'n_iterations': 1, 'running': True})


def controlled_campaign() -> orm.WorkChainNode:
    """Return a campaign with a control arm; both arms have the same graph, and the control is given larger errors."""
    return _kept('controlled', {})


def _kept(name: str, options: dict[str, Any]) -> orm.WorkChainNode:
    try:
        return orm.load_node(_KEPT[name])
    except (KeyError, NotExistent):
        node = _build_controlled() if name == 'controlled' else build_campaign(**options)
        _KEPT[name] = node.uuid
        return node


def _build_controlled() -> orm.WorkChainNode:
    """Return a campaign with a control arm that has ended."""
    graph = Graph()
    inputs = {'control': orm.Str('random'), 'seed': orm.Int(3)}
    node = graph.process(orm.WorkChainNode, 'ControlledCampaignWorkChain', inputs, state=ProcessState.RUNNING)
    arms = {name: build_campaign(caller=node, link=name) for name in ('campaign', 'control')}
    test = common_test_set(**{name: arm.outputs.dataset for name, arm in arms.items()}, **BARE).store()
    arguments: dict[str, Any] = {}
    for name, arm in arms.items():
        for index, model in enumerate(sorted(arm.outputs.models)):
            said = evaluate(test.configurations, index if name == 'campaign' else index // 2)
            arguments[f'{name}_{model}'] = EvaluationData(said, 'a' * 64).store()
            arguments[f'{name}_{model}_dataset'] = training_dataset(arm.outputs.models[model])
    comparison = compare_arms(test, orm.Int(1), **arguments, **BARE)
    graph.process(orm.CalcFunctionNode, 'compare_arms', arguments, {'result': comparison}, caller=node)
    graph.outputs(node, {'comparison': comparison})
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(0)
    node.seal()
    return node


def build_campaign(
    *, n_iterations: int = 2, running: bool = False, caller: orm.ProcessNode | None = None, link: str | None = None
) -> orm.WorkChainNode:
    """Return a campaign of ``n_iterations``; a running one is labelling after those, and has no validation."""
    graph = Graph()
    structure = orm.StructureData(ase=bulk('Cu', cubic=True))
    inputs = {name: orm.Dict(values) for name, values in SETTINGS.items()}
    campaign = graph.process(
        orm.WorkChainNode, 'ActiveLearningWorkChain',
        {**inputs, 'seed': orm.Int(3), 'seeds__structures__structure_000': structure},
        state=ProcessState.WAITING if running else ProcessState.RUNNING, caller=caller, link=link,
    )  # fmt: skip
    parents = Configurations.from_atoms([structure.get_ase()])
    recipe = [
        {'generator': 'rattle', 'n_frames': 6, 'stdev': 0.06},
        {'generator': 'isotropic_strain', 'n_frames': 4},
    ]
    seeds = Configurations.concatenate([generate(parents, recipe, 1), isolated_atoms([29])])
    parents_node, seeds_node = ConfigurationsData(parents), ConfigurationsData(seeds)
    chain = graph.process(
        orm.WorkChainNode, 'SeedsWorkChain', {'seeds__structures__structure_000': structure}, caller=campaign
    )
    graph.process(
        orm.CalcFunctionNode, 'generate_seeds', {}, {'parents': parents_node, 'seeds': seeds_node}, caller=chain
    )
    graph.outputs(chain, {'configurations': seeds_node})
    dataset = graph.labelling(campaign, seeds_node, reject=2)
    decision = start_campaign(dataset, **BARE)
    graph.process(orm.CalcFunctionNode, 'start_campaign', {'dataset': dataset}, {'result': decision}, caller=campaign)

    models: dict[str, MlipModelData] = {}
    coverage: dict[str, orm.Dict] = {}
    for iteration in range(n_iterations):
        name = f'iteration_{iteration:02d}'
        plan = orm.Dict({'seeds': [1]})
        graph.process(
            orm.CalcFunctionNode,
            'plan_iteration',
            {'dataset': dataset, 'decision': decision},
            {'training': plan},
            caller=campaign,
        )
        models[name] = graph.training(campaign, dataset, iteration)
        pool = ConfigurationsData(_pool(parents, iteration))
        pool_evaluation = EvaluationData(evaluate(pool.configurations, iteration), models[name].digest)
        exploration = orm.Dict(
            {
                'unbiased_max_forces_std': pool_evaluation.evaluation.max_forces_std.tolist(),
                'n_unreached': 0,
                'wall_s': 30.0,
            }
        )
        chain = graph.process(orm.WorkChainNode, 'ExploreWorkChain', {'mace__model': models[name]}, caller=campaign)
        explored = {'pool': pool, 'evaluation': pool_evaluation, 'results': exploration}
        graph.process(orm.CalcJobNode, 'MaceExploreCalculation', {'model': models[name]}, explored, caller=chain)
        known = EvaluationData(evaluate(dataset.configurations, iteration), models[name].digest)
        graph.process(
            orm.CalcJobNode, 'MaceEvaluateCalculation', {'model': models[name], 'configurations': dataset},
            {'evaluation': known, 'results': orm.Dict({'wall_s': 5.0})}, caller=campaign,
        )  # fmt: skip
        calibration = calibrate_uncertainty(dataset, known, inputs['selection'], **BARE)
        graph.process(
            orm.CalcFunctionNode,
            'calibrate_uncertainty',
            {'dataset': dataset, 'evaluation': known},
            {'result': calibration},
            caller=campaign,
        )
        arguments = {
            'pool': pool, 'evaluation': pool_evaluation, 'dataset': dataset, 'dataset_evaluation': known,
        }  # fmt: skip
        drift = measure_drift(**arguments, **BARE)
        graph.process(orm.CalcFunctionNode, 'measure_drift', arguments, {'result': drift}, caller=campaign)
        arguments = {
            'pool': pool, 'evaluation': pool_evaluation, 'exploration': exploration, 'dataset': dataset,
            'dataset_evaluation': known, 'calibration': calibration, 'selection': inputs['selection'],
            'budget': inputs['budget'], 'decision': decision, 'seed': campaign.inputs.seed,
        }  # fmt: skip
        chosen = select_frames(**arguments, **BARE)
        graph.process(orm.CalcFunctionNode, 'select_frames', arguments, chosen, caller=campaign)
        graph.outputs(campaign, {f'selections__{name}': chosen['selection'], f'models__{name}': models[name]})
        labels = graph.labelling(campaign, chosen['frames'])
        arguments = {
            'labels': labels, 'pool_evaluation': pool_evaluation, 'selection': chosen['selection'],
            'calibration': calibration, **coverage,
        }  # fmt: skip
        coverage = {'previous': check_calibration(**arguments, **BARE)}
        graph.process(
            orm.CalcFunctionNode, 'check_calibration', arguments, {'result': coverage['previous']}, caller=campaign
        )
        graph.outputs(campaign, {f'coverage__{name}': coverage['previous'], f'calibrations__{name}': calibration})
        arguments = {
            'dataset': dataset, 'labels': labels, 'training': inputs['training'], 'selection': inputs['selection'],
            'seed': campaign.inputs.seed, 'dataset_evaluation': known, 'pool_evaluation': pool_evaluation,
        }  # fmt: skip
        merged = grow_dataset(**arguments, **BARE)
        graph.process(orm.CalcFunctionNode, 'grow_dataset', arguments, {'result': merged}, caller=campaign)
        dataset = merged
        arguments = {
            'dataset': dataset, 'dataset_evaluation': known, 'pool_evaluation': pool_evaluation,
            'selection': chosen['selection'], 'previous': decision, 'convergence': inputs['convergence'],
            'budget': inputs['budget'], 'seed': campaign.inputs.seed,
        }  # fmt: skip
        decision = decide_iteration(**arguments, **BARE)
        graph.process(orm.CalcFunctionNode, 'decide_iteration', arguments, {'result': decision}, caller=campaign)
        graph.outputs(campaign, {f'decisions__{name}': decision})
    if running:
        _label_on(graph, campaign, parents)
    else:
        _finish(graph, campaign, dataset, decision, models, parents_node)
    return campaign


def _pool(parents: Configurations, iteration: int) -> Configurations:
    """Return candidates and a random stream of two frames for calibration and two for the test."""
    recipe = [{'generator': 'rattle', 'n_frames': 30, 'stdev': 0.12}]
    frames = generate(parents, recipe, 100 + iteration)
    frames = Configurations.from_atoms([atoms.repeat((1, 1, 1)) for atoms in frames.to_atoms()])
    trajectory = [f'i{iteration:02d}-r{index % 6:03d}' for index in range(30)]
    role = ['calibration' if index in (0, 7) else 'test' if index in (2, 9) else 'candidate' for index in range(30)]
    return frames.with_columns(trajectory=trajectory, role=role, step=np.arange(30) * 10, origin=['nvt'] * 30)


def _label_on(graph: Graph, campaign: Any, parents: Configurations) -> None:
    """Add a LabelWorkChain at work on six frames: two done, one failed, one running, two waiting."""
    graph.process(orm.CalcFunctionNode, 'plan_iteration', {}, {'training': orm.Dict({'seeds': [2]})}, caller=campaign)
    frames = ConfigurationsData(generate(parents, [{'generator': 'rattle', 'n_frames': 6}], 77))
    chain = graph.process(
        orm.WorkChainNode, 'LabelWorkChain', {'configurations': frames}, caller=campaign, state=ProcessState.WAITING
    )
    lane = graph.process(orm.WorkChainNode, 'LabelLaneWorkChain', {}, caller=chain, state=ProcessState.WAITING)
    states = [
        (ProcessState.FINISHED, 0),
        (ProcessState.FINISHED, 0),
        (ProcessState.FINISHED, 501),
        (ProcessState.WAITING, None),
    ]
    for index, (state, exit_status) in enumerate(states):
        graph.process(
            orm.WorkChainNode,
            'PwBaseWorkChain',
            {},
            caller=lane,
            link=f'frame_{index:05d}',
            state=state,
            exit_status=exit_status,
        )


def _finish(
    graph: Graph, campaign: Any, dataset: Any, decision: Any, models: dict[str, Any], parents: ConfigurationsData
) -> None:
    """Add the validation and the results."""
    name = f'iteration_{len(models):02d}'
    models[name] = graph.training(campaign, dataset, len(models))
    frames = dataset.configurations
    stream = frames.take(frames.has_role('calibration', 'test'))
    chain = graph.process(orm.WorkChainNode, 'ValidateWorkChain', {'dataset': dataset}, caller=campaign)
    evaluations = {}
    for index, (key, model) in enumerate(models.items()):
        evaluations[key] = EvaluationData(evaluate(stream, index), model.digest)
        graph.process(
            orm.CalcJobNode, 'MaceEvaluateCalculation', {'model': model}, {'evaluation': evaluations[key]}, caller=chain
        )
    strained = equation_of_state_frames(parents, orm.Dict({'max_strain': 0.03, 'n_volumes': 7}), **BARE)
    graph.process(
        orm.CalcFunctionNode, 'equation_of_state_frames', {'parents': parents}, {'result': strained}, caller=chain
    )
    labels = graph.labelling(chain, strained)
    rows = labels.configurations
    volumes = np.abs(np.linalg.det(rows.cell))
    fit = eos.fit(volumes * 1.002, rows.energy)
    entry = {
        **fit, 'formula': 'Cu4', 'a0': fit['v0'] ** (1 / 3), 'n_atoms': 4,
        'volumes': (volumes * 1.002).tolist(), 'energies': rows.energy.tolist(),
    }  # fmt: skip
    properties = orm.Dict({'eos': {str(rows.parent[0]): entry}})
    graph.process(
        orm.CalcJobNode, 'PropertiesCalculation', {'model': models[name]}, {'results': properties}, caller=chain
    )
    summary = validation_summary(dataset, labels, properties, **evaluations, **BARE)
    arguments = {'dataset': dataset, 'labels': labels, 'properties': properties}
    arguments.update({f'evaluations__{key}': value for key, value in evaluations.items()})
    graph.process(orm.CalcFunctionNode, 'validation_summary', arguments, {'result': summary}, caller=chain)
    graph.outputs(chain, {'validation': summary})
    results = {'validation': summary, 'model': models[name], 'dataset': dataset, 'decision': decision}
    graph.outputs(campaign, {**results, f'models__{name}': models[name]})
    campaign.set_process_state(ProcessState.FINISHED)
    campaign.set_exit_status(0)
    campaign.seal()
