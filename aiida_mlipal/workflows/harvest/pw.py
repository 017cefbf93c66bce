"""What finished pw.x calculations offer to a harvest, from the database alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.kpoint_rules import distance_interval
from aiida_mlipal.workflows.engines.pw_level_of_theory import pw_level_of_theory
from aiida_mlipal.workflows.harvest.pw_steps import fixes_spin, harvest_pw, ionic_steps, namelists
from aiida_mlipal.workflows.harvest.sources import ANY_RULE, KPoints, Rule, Source
from aiida_mlipal.workflows.harvest.steps import is_isolated
from aiida_mlipal.workflows.harvest.tables import Node, Once, Table, by_element, read_sources

__all__ = ('PwReader',)

#: What is read, and whether its ionic steps are good labels although the calculation as a whole ended badly: pw.x goes
#: on to the next step only from a converged SCF. A single point that failed leaves nothing.
_KINDS: Final = {'scf': False, 'relax': True, 'md': True, 'vc-relax': True, 'vc-md': True}
#: Ways to end badly that say nothing about the steps before: out of wall time (340, 400), ionic thresholds, number of
#: steps or BFGS (500 to 503, 520), an SCF of a later step that did not converge (510, 511, 521), a cell that lost its
#: symmetry or shrank too far (541, 542).
_GOOD_STEPS: Final = (120, 140, 340, 400, 500, 501, 502, 503, 510, 511, 520, 521, 541, 542)
_INPUTS: Final = {
    'or': [{'in': ['parameters', 'structure', 'kpoints', 'settings', 'hubbard_file']}, {'like': 'pseudos__%'}]
}


class PwReader:
    """Reader of ``quantumespresso.pw``."""

    plugin = 'quantumespresso.pw'
    usual_rule: ClassVar[Rule] = {'distance': 0.15, 'offset': [0.0, 0.0, 0.0], 'mesh_of': 'reference cell'}

    def sources(self, pks: Collection[int]) -> tuple[list[Source], Counter[str]]:
        """Return what these calculations offer, oldest first, and why others offer nothing, counted."""
        level = Once(_level)
        return read_sources(pks, _INPUTS, {'in': ['output_trajectory']}, lambda pk, table: _source(pk, table, level))

    def frames(self, results: Sequence[orm.Data], level_of_theory: Mapping[str, Any]) -> Configurations:
        """Return every ionic step of these trajectories."""
        return Configurations.concatenate([ionic_steps(result, level_of_theory) for result in results])

    def collect(self) -> Callable[..., ConfigurationsData]:
        """Return :func:`harvest_pw`."""
        function: Callable[..., ConfigurationsData] = harvest_pw
        return function


def _level(
    parameters: Mapping[str, Any], pseudos: Mapping[str, int], hubbard: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the level of theory with some rule for k-points.

    :raises ValueError: if functionals are mixed.
    """
    nodes = {element: orm.load_node(pk) for element, pk in pseudos.items()}
    return pw_level_of_theory(parameters, 1.0, [0.0, 0.0, 0.0], nodes, hubbard)


def _source(pk: int, table: Table, level: Once) -> Source:
    """Return what a calculation offers.

    :raises ValueError: saying why it offers nothing.
    """
    inputs = table.inputs[pk]
    if 'parameters' not in inputs or 'structure' not in inputs or 'kpoints' not in inputs:
        raise ValueError('parameters, structure or k-points are not in this profile')
    parameters = namelists(inputs['parameters'][2])
    kind = parameters['CONTROL'].get('calculation', 'scf')
    if kind not in _KINDS:
        raise ValueError(f'`{kind}` calculations have no forces')
    status, message = table.ends[pk]
    if status != 0 and not (_KINDS[kind] and status in _GOOD_STEPS):
        raise ValueError(f'{kind} ended with exit status {status}: {message}')
    if 'output_trajectory' not in table.outputs[pk]:
        raise ValueError(f'{kind} without a trajectory')
    result, _, trajectory = table.outputs[pk]['output_trajectory']
    absent = [name for name in ('energy', 'forces') if f'array|{name}' not in trajectory]
    if absent:
        raise ValueError(f'{kind} without {" and ".join(absent)}')
    settings = {key.upper(): value for key, value in inputs.get('settings', (0, '', {}))[2].items()}
    if np.any(settings.get('FIXED_COORDS', False)):
        raise ValueError('pw.x prints no forces on atoms that are held fixed')
    _, structure_type, structure = inputs['structure']
    symbols = {item['name']: item['symbols'][0] for item in structure['kinds']}
    pseudos = by_element({label.removeprefix('pseudos__'): item[0] for label, item in inputs.items()
                           if label.startswith('pseudos__')}, symbols, 'pseudopotentials')  # fmt: skip
    system: dict[str, Any] = {
        key: by_element(value, symbols, key) if isinstance(value, dict) else value
        for key, value in parameters['SYSTEM'].items()
        if key != 'starting_magnetization'  # of a frame, and steers only
    }
    n_atoms = int(trajectory['array|forces'][1])
    isolated = is_isolated(n_atoms, structure['cell'])
    if isolated and int(system.get('nspin', 1)) != 2:
        raise ValueError('an isolated atom that is not spin-polarised has too high an energy')
    if fixes_spin(system):
        del system['nspin'], system['tot_magnetization']  # one state of a frame, not a level of theory
    if system.get('assume_isolated', 'none') != 'none':
        system.pop('tot_charge', None)
    pbc = [structure[f'pbc{axis}'] for axis in (1, 2, 3)]
    k_points = _k_points(inputs['kpoints'][2], structure['cell'], pbc, isolated)
    hubbard = _hubbard(inputs, structure_type)
    physics = {'CONTROL': parameters['CONTROL'], 'SYSTEM': system}
    rest = level(physics, {element: pseudos[element] for element in sorted(pseudos)}, hubbard)
    del rest['k_points']
    return Source(
        calculation=pk,
        result=result,
        n_frames=int(trajectory['array|energy'][0]),
        n_atoms=n_atoms,
        by_element={'pseudopotentials': rest.pop('pseudopotentials')},
        rest=rest,
        k_points=k_points,
        isolated=isolated,
    )


def _k_points(kpoints: Mapping[str, Any], cell: Any, pbc: list[bool], isolated: bool) -> KPoints:
    """Return the rules that give a mesh; any does for molecules and isolated atoms, always at Γ.

    :raises ValueError: if no rule gives the k-points.
    """
    if 'mesh' not in kpoints:
        raise ValueError('k-points given one by one, not as a mesh')
    mesh, offset = tuple(kpoints['mesh']), [0.5 if value else 0.0 for value in kpoints['offset']]
    if isolated or not any(pbc):
        if mesh != (1, 1, 1) or any(offset):
            raise ValueError('a molecule or an isolated atom with other k-points than Γ')
        return ANY_RULE
    interval = distance_interval(cell, pbc, mesh)
    if interval is None:
        raise ValueError('a mesh of k-points that no distance gives')
    return KPoints(interval=interval, rest={'offset': offset, 'mesh_of': 'reference cell'})


def _hubbard(inputs: Mapping[str, Node], structure_type: str) -> dict[str, Any] | None:
    """Return the Hubbard U by orbital, as the engine is given it.

    :raises ValueError: for what the engine has no words for.
    """
    if 'hubbard_file' in inputs:
        raise ValueError('Hubbard parameters in a file')
    if 'hubbard' not in structure_type:
        return None
    hubbard = orm.load_node(inputs['structure'][0]).hubbard
    structure = inputs['structure'][2]
    symbols = {item['name']: item['symbols'][0] for item in structure['kinds']}
    onsite: dict[str, float] = {}
    for term in hubbard.parameters:
        if term.hubbard_type != 'U' or term.atom_index != term.neighbour_index:
            raise ValueError('Hubbard parameters other than U')
        element = symbols[structure['sites'][term.atom_index]['kind_name']]
        if onsite.setdefault(f'{element}-{term.atom_manifold}', term.value) != term.value:
            raise ValueError('atoms of one element have different Hubbard U')
    return {'projectors': hubbard.projectors, 'U': onsite}
