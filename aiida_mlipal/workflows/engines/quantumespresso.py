"""Labels from pw.x, through :class:`PwBaseWorkChain` of aiida-quantumespresso."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from aiida.plugins import WorkflowFactory

from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.science.level_of_theory import canonical
from aiida_mlipal.science.units import GPA
from aiida_mlipal.workflows.checks import find_pseudo_family
from aiida_mlipal.workflows.engines.base import Inputs, Retry, Task, check_spins, failure_reason

__all__ = ('QuantumEspressoEngine', 'functional_of')

#: SYSTEM keywords that steer the solution but do not change what is solved.
_NUMERICAL: Final = ('nbnd', 'nosym', 'noinv', 'starting_magnetization', 'tot_magnetization', 'tot_charge', 'ibrav')

#: Short names of the functionals as pseudopotentials spell them (Modules/funct.f90 of Quantum ESPRESSO).
_FUNCTIONALS: Final = {
    'SLA PZ NOGX NOGC': 'PZ',
    'SLA PW PBE PBE': 'PBE',
    'SLA PW PBX PBC': 'PBE',
    'SLA PW PSX PSC': 'PBESOL',
    'SLA PW NOGX NOGC': 'PW',
    'SLA LYP B88 BLYP': 'BLYP',
}


def functional_of(pseudo: orm.Data) -> str:
    """Return the functional that a UPF file names in its header, by its short name where there is one.

    :raises ValueError: if the file names none.
    """
    content = pseudo.get_content()
    match = re.search(r'functional\s*=\s*"([^"]+)"', content, re.IGNORECASE)
    if match is None:  # UPF version 1
        match = re.search(r'^\s*(\w+(?:[ -]+\w+)*)\s+Exchange-Correlation functional', content, re.MULTILINE)
    if match is None:
        raise ValueError(f'the pseudopotential {pseudo.filename} names no functional; use a UPF file that does.')
    words = ' '.join(re.split(r'[\s+-]+', match.group(1).strip().upper()))
    return _FUNCTIONALS.get(words, words)


def pseudo_valence(pseudo: orm.Data) -> float:
    """Return the number of valence electrons that a UPF file (version 1 or 2) names in its header.

    :raises ValueError: if it names none.
    """
    number = r'([-+\d.eEdD]+)'
    content = pseudo.get_content()
    match = re.search(r'z_valence\s*=\s*"\s*' + number, content) or re.search(number + r'\s+Z valence', content)
    if match is None:
        raise ValueError(f'the pseudopotential {pseudo.filename} does not say how many valence electrons it has.')
    return float(match.group(1).lower().replace('d', 'e'))


def _level_of_theory(
    parameters: dict[str, Any], kpoints_distance: float, kpoints_offset: list[float], pseudos: dict[str, orm.Data]
) -> dict[str, Any]:
    functionals = {element: functional_of(pseudo) for element, pseudo in sorted(pseudos.items())}
    system = {key: value for key, value in parameters.get('SYSTEM', {}).items() if key not in _NUMERICAL}
    named = str(system.pop('input_dft', '')).upper()
    found = sorted(set(functionals.values()) | ({named} if named else set()))
    if len(found) != 1:
        raise ValueError(
            f'functionals are mixed: the pseudopotentials name {functionals}'
            + (f' and `input_dft` is {named}' if named else '')
            + '. Choose a pseudopotential family made for one functional.'
        )
    return dict(
        canonical(
            {
                'code': 'quantumespresso.pw',
                'functional': found[0],
                'pseudopotentials': {element: pseudo.md5 for element, pseudo in pseudos.items()},
                'system': system,
                'k_points': {'distance': kpoints_distance, 'offset': kpoints_offset, 'mesh_of': 'reference cell'},
            }
        )
    )


def _mesh(frames: Configurations, index: int, distance: float) -> tuple[int, int, int]:
    """Return the k-point mesh of a frame: that of its reference cell; Γ alone for an isolated atom."""
    if frames.role[index] == 'isolated_atom':
        return (1, 1, 1)
    reciprocal = 2 * np.pi * np.linalg.norm(np.linalg.inv(frames.reference_cell[index]), axis=0)
    # The tolerance keeps a length that is a whole multiple of the distance from being rounded up.
    counts = np.maximum(1, np.ceil(reciprocal / distance - 1e-8)).astype(int)
    counts[~frames.pbc[index]] = 1
    return (int(counts[0]), int(counts[1]), int(counts[2]))


def _mesh_key(mesh: tuple[int, int, int]) -> str:
    return 'mesh_{}_{}_{}'.format(*mesh)


def _variant_key(frames: Configurations, index: int) -> str:
    """Return the name of the parameter set that a frame needs."""
    if frames.role[index] == 'isolated_atom':
        return f'atom_{frames.multiplicity[index]}'
    charge = int(frames.charge[index])
    sign = 'minus' if charge < 0 else 'plus'
    return f'multiplicity_{frames.multiplicity[index]}_charge_{sign}_{abs(charge)}'


def _variant(parameters: dict[str, Any], frames: Configurations, index: int) -> dict[str, Any]:
    """Return the parameters for the charge and spin of a frame."""
    result = {namelist: dict(values) for namelist, values in parameters.items()}
    system, electrons = result.setdefault('SYSTEM', {}), result.setdefault('ELECTRONS', {})
    moment = int(frames.multiplicity[index]) - 1
    if moment >= 0:
        system.update(nspin=2, tot_magnetization=moment)
        kinds = {_symbol(number) for number in frames.take([index]).numbers}
        system['starting_magnetization'] = dict.fromkeys(sorted(kinds), 0.5 if moment else 0.0)
    if frames.charge[index]:
        system['tot_charge'] = int(frames.charge[index])
    if frames.role[index] == 'isolated_atom':
        # Degenerate levels of an open shell are filled evenly by a narrow smearing, without symmetry to pin them.
        system.update(occupations='smearing', smearing='gaussian', degauss=0.002, nosym=True)
        electrons.update(mixing_beta=0.3, electron_maxstep=100)
    return result


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])


@calcfunction
def describe_pw_level_of_theory(
    parameters: orm.Dict, kpoints_distance: orm.Float, kpoints_offset: orm.List, **pseudos: orm.Data
) -> orm.Dict:
    """Return the level of theory of pw.x calculations with these inputs."""
    return orm.Dict(_level_of_theory(parameters.get_dict(), kpoints_distance.value, kpoints_offset.get_list(), pseudos))


@calcfunction
def prepare_pw_inputs(
    frames: ConfigurationsData, parameters: orm.Dict, kpoints_distance: orm.Float, kpoints_offset: orm.List
) -> dict[str, dict[str, orm.Data]]:
    """Return the structures of all frames, and each k-point mesh and set of parameters that they need, once."""
    configurations = frames.configurations
    structures: dict[str, orm.Data] = {}
    meshes: dict[str, orm.Data] = {}
    variants: dict[str, orm.Data] = {}
    for index in range(len(configurations)):
        atoms = configurations.atoms(index)
        atoms.calc, atoms.info = None, {}
        structures[frame_key(index)] = orm.StructureData(ase=atoms)
        mesh = _mesh(configurations, index, kpoints_distance.value)
        if _mesh_key(mesh) not in meshes:
            kpoints = orm.KpointsData()
            gamma = configurations.role[index] == 'isolated_atom'
            offset = [0.5 if value and not gamma else 0.0 for value in kpoints_offset.get_list()]
            kpoints.set_kpoints_mesh(mesh, offset=offset)
            meshes[_mesh_key(mesh)] = kpoints
        variant = _variant_key(configurations, index)
        if variant not in variants:
            variants[variant] = orm.Dict(_variant(parameters.get_dict(), configurations, index))
    return {'structures': structures, 'kpoints': meshes, 'parameters': variants}


@calcfunction
def collect_pw_labels(
    frames: ConfigurationsData, level_of_theory: orm.Dict, **results: orm.Data
) -> ConfigurationsData:
    """Return ``frames`` with the labels of their pw.x calculations.

    ``results`` holds by frame the trajectory of a calculation, or whatever a failed one left behind. The energy is the
    one that belongs to the forces (with smearing, pw.x prints the free energy as total energy). The stress of pw.x is
    positive under compression and comes in GPa.
    """
    configurations = frames.configurations
    n_frames = len(configurations)
    energy, stress = np.full(n_frames, np.nan), np.full((n_frames, 6), np.nan)
    forces = np.full((int(configurations.n_atoms.sum()), 3), np.nan)
    status, reason = ['rejected'] * n_frames, ['no calculation returned a label'] * n_frames
    offsets = configurations.offsets
    for index in range(n_frames):
        output = results.get(frame_key(index))
        if output is None:
            continue
        names = output.get_arraynames() if isinstance(output, orm.TrajectoryData) else []
        if output.creator is None or output.creator.exit_status != 0:
            reason[index] = failure_reason(output)
            continue
        absent = [name for name in ('energy', 'forces', 'stress') if name not in names]
        if absent:
            reason[index] = f'pw.x returned no {" and no ".join(absent)}'
            continue
        energy[index] = output.get_array('energy')[-1]
        forces[offsets[index] : offsets[index + 1]] = output.get_array('forces')[-1]
        tensor = -np.asarray(output.get_array('stress')[-1]) * GPA
        stress[index] = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        status[index], reason[index] = 'labelled', ''
    labelled = configurations.with_columns(energy=energy, forces=forces, stress=stress, status=status, reason=reason)
    return ConfigurationsData(labelled, level_of_theory=level_of_theory.get_dict())


class QuantumEspressoEngine:
    """pw.x through ``quantumespresso.pw.base``, one WorkChain per frame.

    Inputs: ``code``, ``parameters`` (Dict), ``pseudos`` (by element), ``kpoints_distance`` (Float, 1/Å),
    ``kpoints_offset`` (List, in units of the mesh spacing), ``options`` (Dict, of the job), ``clean_workdir`` (Bool),
    ``max_iterations`` (Int, attempts per frame).
    """

    plugin: ClassVar[str] = 'quantumespresso.pw'
    _required: ClassVar = (
        'code', 'parameters', 'pseudos', 'kpoints_distance', 'kpoints_offset', 'options', 'clean_workdir',
        'max_iterations',
    )  # fmt: skip

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
        return {
            'code': code,
            'parameters': orm.Dict(parameters),
            'pseudos': {element: family.get_pseudo(element) for element in elements},
            'kpoints_distance': orm.Float(settings['kpoints_distance']),
            'kpoints_offset': orm.List(settings['kpoints_offset']),
            'options': orm.Dict(dict(options)),
            'clean_workdir': orm.Bool(settings['clean_workdir']),
            'max_iterations': orm.Int(settings['max_iterations']),
        }

    def validate(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""
        missing = [name for name in self._required if name not in inputs]
        if missing:
            return f'the quantumespresso engine needs inputs {missing}; see `{type(self).__name__}`.'
        system = inputs['parameters'].get_dict().get('SYSTEM', {})
        if 'ecutwfc' not in system:
            return 'no plane-wave cutoff: set `SYSTEM: {ecutwfc: ...}` (Ry) in the label parameters.'
        if inputs['kpoints_distance'].value <= 0:
            return f'`kpoints_distance` is {inputs["kpoints_distance"].value}, expected a positive number of 1/Å.'
        try:
            self.level_of_theory(inputs)
        except ValueError as exception:
            return str(exception)
        return None

    def check_frames(self, frames: Configurations, inputs: Inputs) -> list[str]:
        """Return why some of ``frames`` cannot be labelled."""
        return check_spins(frames)

    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the readable level of theory: functional, pseudopotentials, cutoffs, k-point rule, smearing, spin."""
        return _level_of_theory(
            inputs['parameters'].get_dict(),
            inputs['kpoints_distance'].value,
            inputs['kpoints_offset'].get_list(),
            dict(inputs['pseudos']),
        )

    def describe(self, inputs: Inputs) -> orm.Dict:
        """Return :meth:`level_of_theory` as a node."""
        node: orm.Dict = describe_pw_level_of_theory(
            inputs['parameters'], inputs['kpoints_distance'], inputs['kpoints_offset'], **inputs['pseudos']
        )
        return node

    def tasks(self, frames: ConfigurationsData, inputs: Inputs) -> dict[str, Task]:
        """Return one task per frame: its structure, k-point mesh and parameters."""
        prepared = prepare_pw_inputs(frames, inputs['parameters'], inputs['kpoints_distance'], inputs['kpoints_offset'])
        configurations = frames.configurations
        electrons = {element: pseudo_valence(pseudo) for element, pseudo in inputs['pseudos'].items()}
        tasks = {}
        for index in range(len(configurations)):
            mesh = _mesh(configurations, index, inputs['kpoints_distance'].value)
            nodes = {
                'structure': prepared['structures'][frame_key(index)],
                'kpoints': prepared['kpoints'][_mesh_key(mesh)],
                'parameters': prepared['parameters'][_variant_key(configurations, index)],
            }
            atoms = configurations.take([index]).numbers
            n_electrons = sum(electrons[_symbol(number)] for number in atoms) - int(configurations.charge[index])
            tasks[frame_key(index)] = Task(nodes, Size(max(n_electrons, 1.0), int(np.prod(mesh))))
        return tasks

    def process(
        self, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
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

    def result(self, process: orm.ProcessNode) -> orm.Data | None:
        """Return the trajectory (energy, forces, stress), or what the last calculation left."""
        if process.is_finished_ok and 'output_trajectory' in process.outputs:
            trajectory: orm.Data = process.outputs.output_trajectory
            return trajectory
        calculations = [node for node in process.called if isinstance(node, orm.CalcJobNode)]
        for calculation in sorted(calculations, key=lambda node: node.ctime, reverse=True):
            for label in ('retrieved', 'remote_folder'):
                if label in calculation.outputs:
                    left: orm.Data = calculation.outputs[label]
                    return left
        return None

    def retry(
        self, process: orm.ProcessNode, attempt: int, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> Retry | None:
        """Return what to change after a failure; the handlers of ``PwBaseWorkChain`` have had their turn."""
        return None

    def collect(
        self, frames: ConfigurationsData, level_of_theory: orm.Dict, results: dict[str, orm.Data]
    ) -> ConfigurationsData:
        """Return the label chunk."""
        chunk: ConfigurationsData = collect_pw_labels(frames, level_of_theory, **results)
        return chunk

    def size(self, calculation: orm.CalcJobNode) -> Size | None:
        """Return electrons and k-points, as :meth:`tasks` counts them."""
        said = calculation.outputs.output_parameters.get_dict()
        mesh, _ = calculation.inputs.kpoints.get_kpoints_mesh()
        return Size(float(said['number_of_electrons']), int(np.prod(mesh)))
