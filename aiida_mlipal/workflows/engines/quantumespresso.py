"""Labels from pw.x, through :class:`PwBaseWorkChain` of aiida-quantumespresso."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Final

from aiida import orm
from aiida.common.links import LinkType
from aiida.plugins import CalculationFactory, WorkflowFactory

from aiida_mlipal.calculations.frames import mesh_key, variant_key
from aiida_mlipal.calculations.functions.labels import frame_index, frame_key
from aiida_mlipal.calculations.pw_inputs import PwFrames, prepare_pw_inputs, pseudo_valence
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.workflows.checks import find_pseudo_family
from aiida_mlipal.workflows.engines.base import Inputs, Retry, Task, check_spins
from aiida_mlipal.workflows.engines.pw_checks import check_pw_frames, check_pw_parameters
from aiida_mlipal.workflows.engines.pw_ladder import next_attempt
from aiida_mlipal.workflows.engines.pw_level_of_theory import (
    describe_pw_level_of_theory,
    pw_level_of_theory,
)
from aiida_mlipal.workflows.engines.pw_outputs import collect_pw_labels
from aiida_mlipal.workflows.engines.restart import RestartEngine
from aiida_mlipal.workflows.outputs import inputs_of

__all__ = ('QuantumEspressoEngine',)

#: Options that name files of one calculation, or ports that only ``PwCalculation`` has.
_OWN_OPTIONS: Final = {
    'additional_retrieve_list', 'input_filename', 'output_filename', 'parser_name', 'without_xml',
}  # fmt: skip


class QuantumEspressoEngine(RestartEngine):
    """pw.x through ``quantumespresso.pw.base``, one WorkChain per frame; short ones share jobs of ``mlipal.pw.batch``.

    Inputs beside those of :class:`RestartEngine`: ``parameters`` (Dict), ``pseudos`` (by element), ``kpoints_distance``
    (Float, 1/Å), ``kpoints_offset`` (List, in units of the mesh spacing), and if wanted ``hubbard`` (Dict) for pw.x 7.1
    and later:
    ``{'projectors': 'ortho-atomic', 'U': {'Fe-3d': 4.6}}``. Earlier versions take ``lda_plus_u: true`` and
    ``hubbard_u: {Fe: 4.6}`` in SYSTEM.
    """

    plugin: ClassVar[str] = 'quantumespresso.pw'
    required: ClassVar = ('parameters', 'pseudos', 'kpoints_distance', 'kpoints_offset')

    def build(
        self,
        code: orm.AbstractCode,
        structures: Sequence[orm.StructureData],
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the inputs; cutoffs come from the family where it recommends any."""
        family = find_pseudo_family(settings.get('pseudo_family'), structures)
        elements = sorted({kind.symbol for structure in structures for kind in structure.kinds})
        parameters = {namelist: dict(values) for namelist, values in settings['parameters'].items()}
        system = parameters.setdefault('SYSTEM', {})
        if 'ecutwfc' not in system and hasattr(family, 'get_recommended_cutoffs'):
            system['ecutwfc'], system['ecutrho'] = family.get_recommended_cutoffs(elements=elements, unit='Ry')
        if settings.get('spin_polarised'):
            system.setdefault('nspin', 2)
        inputs = {
            **self.shared_inputs(code, settings, options),
            'parameters': orm.Dict(parameters),
            'pseudos': {element: family.get_pseudo(element) for element in elements},
            'kpoints_distance': orm.Float(settings['kpoints_distance']),
            'kpoints_offset': orm.List(settings['kpoints_offset']),
        }
        if settings.get('hubbard'):
            inputs['hubbard'] = orm.Dict(dict(settings['hubbard']))
        return inputs

    def check_inputs(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""
        problem = check_pw_parameters(inputs['parameters'].get_dict())
        if problem is not None:
            return problem
        if inputs['kpoints_distance'].value <= 0:
            return f'`kpoints_distance` is {inputs["kpoints_distance"].value}, expected a positive number of 1/Å.'
        return None

    def check_frames(self, frames: Configurations, inputs: Inputs) -> list[str]:
        """Return why some of ``frames`` cannot be labelled, each with the mend."""
        system = inputs['parameters'].get_dict().get('SYSTEM', {})
        return check_spins(frames) + check_pw_frames(frames, system, _valences(inputs))

    def gives_stress(self, inputs: Inputs) -> bool:
        """Return whether pw.x is asked for the stress."""
        return bool(inputs['parameters'].get_dict().get('CONTROL', {}).get('tstress'))

    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the readable level of theory: functional, pseudopotentials, cutoffs, k-points, smearing, spin, U."""
        return pw_level_of_theory(
            inputs['parameters'].get_dict(),
            inputs['kpoints_distance'].value,
            inputs['kpoints_offset'].get_list(),
            inputs['pseudos'],
            inputs['hubbard'].get_dict() if 'hubbard' in inputs else None,
        )

    def describe(self, inputs: Inputs) -> orm.Dict:
        """Return :meth:`level_of_theory` as a node."""
        node: orm.Dict = describe_pw_level_of_theory(**_shared(inputs))
        return node

    def tasks(self, frames: ConfigurationsData, inputs: Inputs) -> dict[str, Task]:
        """Return one task per frame: the chunk that it is in. Nodes of its own are made only where it runs alone."""
        asked = PwFrames(frames.configurations, inputs)
        return {
            frame_key(index): Task({'configurations': frames}, asked.size(index)) for index in range(frames.n_frames)
        }

    def alone(self, task: str, task_inputs: Inputs, inputs: Inputs) -> dict[str, Any]:
        """Return structure, k-point mesh and parameters of a frame: those of its chunk are made at the first need."""
        frames, index = task_inputs['configurations'], frame_index(task)
        asked = PwFrames(frames.configurations, inputs)
        prepared = _prepared(frames, inputs)
        return {
            'structure': prepared[f'structures__{task}'],
            'kpoints': prepared[f'kpoints__{mesh_key(*asked.mesh(index))}'],
            'parameters': prepared[f'parameters__{variant_key(asked.parameters(index))}'],
        }

    def process(self, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return ``PwBaseWorkChain`` and its inputs for one frame."""
        structure = task_inputs['structure']
        pw = {
            'code': inputs['code'],
            'structure': structure,
            'parameters': task_inputs['parameters'],
            'pseudos': {kind.name: inputs['pseudos'][kind.symbol] for kind in structure.kinds},
            'metadata': {'options': dict(options)},
        }
        base = {
            'pw': pw,
            'kpoints': task_inputs['kpoints'],
            'clean_workdir': inputs['clean_workdir'],
            'max_iterations': inputs['max_iterations'],
        }
        return WorkflowFactory('quantumespresso.pw.base'), base

    def share(
        self, tasks: Mapping[str, Inputs], inputs: Inputs, options: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Return ``mlipal.pw.batch`` and its inputs, ``None`` for options that only a job of its own understands."""
        if _OWN_OPTIONS & options.keys():
            return None
        (frames,) = {task['configurations'].pk: task['configurations'] for task in tasks.values()}.values()
        batch = {
            'code': inputs['code'],
            'configurations': frames,
            **{name: inputs[name] for name in (*_DECISIVE, 'pseudos') if name in inputs},
            'metadata': {'options': {**options, 'frames': list(tasks)}},
        }
        return CalculationFactory('mlipal.pw.batch'), batch

    def result(self, process: orm.ProcessNode) -> orm.Data | None:
        """Return the trajectory (energy, forces, stress), or what the last calculation left."""
        if process.is_finished_ok and 'output_trajectory' in process.outputs:
            trajectory: orm.Data = process.outputs.output_trajectory
            return trajectory
        return super().result(process)

    def retry(
        self, process: orm.ProcessNode, attempt: int, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> Retry | None:
        """Return what to change after a failure; the handlers of ``PwBaseWorkChain`` have had their turn."""
        return next_attempt(process, task_inputs, options)

    def collect(
        self, frames: ConfigurationsData, level_of_theory: orm.Dict, results: dict[str, orm.Data]
    ) -> ConfigurationsData:
        """Return the label chunk."""
        chunk: ConfigurationsData = collect_pw_labels(frames, level_of_theory, **results)
        return chunk

    def sizes(self, job: orm.CalcJobNode, tasks: Sequence[str]) -> dict[str, Size]:
        """Return electrons and k-points."""
        given = inputs_of(job)
        if 'configurations' in given:
            asked = PwFrames(given['configurations'].configurations, given)
            return {task: asked.size(frame_index(task)) for task in tasks}
        electrons, mesh = job.outputs.output_parameters['number_of_electrons'], given['kpoints'].get_kpoints_mesh()[0]
        return dict.fromkeys(tasks, Size(float(electrons), prod(mesh)))


#: The inputs that decide what is computed, beside the pseudopotentials.
_DECISIVE: Final = ('parameters', 'kpoints_distance', 'kpoints_offset', 'hubbard')


def _shared(inputs: Inputs) -> dict[str, orm.Data]:
    """Return the nodes that decide what is computed, as the calcfunctions take them."""
    return {**{name: inputs[name] for name in _DECISIVE if name in inputs}, **inputs['pseudos']}


def _prepared(frames: ConfigurationsData, inputs: Inputs) -> dict[str, orm.Data]:
    """Return what ``prepare_pw_inputs`` has made of these frames, by link label; it is run if it has not been yet.

    A node with an exit status is still receiving its outputs, maybe from another worker, until it is sealed.
    """
    wanted = {'frames': frames.pk, **{name: node.pk for name, node in _shared(inputs).items()}}
    query = orm.QueryBuilder().append(orm.Node, filters={'id': frames.pk}, tag='frames')
    query.append(
        orm.CalcFunctionNode,
        with_incoming='frames',
        filters={
            'attributes.process_label': prepare_pw_inputs.__name__,
            'attributes.exit_status': 0,
            f'attributes.{orm.ProcessNode.SEALED_KEY}': True,
        },
    )
    for made in query.all(flat=True):
        links = made.base.links.get_incoming(link_type=LinkType.INPUT_CALC).all()
        if {link.link_label: link.node.pk for link in links} == wanted:
            break
    else:
        _, made = prepare_pw_inputs.run_get_node(frames, **_shared(inputs))
    outputs = made.base.links.get_outgoing(link_type=LinkType.CREATE).all()
    return {link.link_label: link.node for link in outputs}


def _valences(inputs: Inputs) -> dict[str, float]:
    """Return valence electrons by element."""
    return {element: pseudo_valence(pseudo) for element, pseudo in inputs['pseudos'].items()}
