"""What finished CP2K calculations offer to a harvest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Final

from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.kpoint_rules import distance_interval
from aiida_mlipal.workflows.harvest.cp2k_steps import harvest_cp2k, ionic_steps, read_steps, run_type
from aiida_mlipal.workflows.harvest.cp2k_theory import (
    check_described,
    level_without_k_points,
    periodicity,
    plain_sections,
    spin_of,
)
from aiida_mlipal.workflows.harvest.sources import ANY_RULE, KPoints, Rule, Source
from aiida_mlipal.workflows.harvest.steps import is_isolated
from aiida_mlipal.workflows.harvest.tables import Node, Once, Table, read_sources

__all__ = ('Cp2kReader',)

#: What is read, and whether its ionic steps are good labels although the calculation as a whole ended badly: each step
#: says whether its SCF converged. A single point that failed leaves nothing.
_KINDS: Final = {'ENERGY_FORCE': False, 'GEO_OPT': True, 'CELL_OPT': True, 'MD': True}
_INPUTS: Final = {
    'or': [
        {'in': ['parameters', 'structure', 'kpoints']},
        {'like': 'file__%'},
        {'like': 'basissets__%'},
        {'like': 'pseudos%'},
    ]
}
#: Labels of basis sets and potentials that are nodes and not files.
_NODES: Final = ('basissets__', 'pseudos__', 'pseudos_upf__')
#: Keywords of KPOINTS that do not say which ones.
_NOT_K_POINTS: Final = {
    'SCHEME', 'SYMMETRY', 'FULL_GRID', 'VERBOSE', 'EPS_GEO', 'PARALLEL_GROUP_SIZE', 'WAVEFUNCTIONS',
}  # fmt: skip
_BY_ELEMENT: Final = ('basis_sets', 'potentials')


class Cp2kReader:
    """Reader of ``cp2k``."""

    plugin = 'cp2k'
    usual_rule: ClassVar[Rule] = 'gamma'

    def sources(self, pks: Collection[int]) -> tuple[list[Source], Counter[str]]:
        """Return what these calculations offer, oldest first, and why others offer nothing, counted."""
        level = Once(level_without_k_points)
        partly: Counter[str] = Counter()
        found, left_out = read_sources(
            pks, _INPUTS, {'in': ['retrieved']}, lambda pk, table: _source(pk, table, level, partly)
        )
        return found, left_out + partly

    def frames(self, results: Sequence[orm.Data], level_of_theory: Mapping[str, Any]) -> Configurations:
        """Return every ionic step in these folders."""
        return Configurations.concatenate([ionic_steps(result) for result in results])

    def collect(self) -> Callable[..., ConfigurationsData]:
        """Return :func:`harvest_cp2k`."""
        function: Callable[..., ConfigurationsData] = harvest_cp2k
        return function


def _source(pk: int, table: Table, level: Once, partly: Counter[str]) -> Source:
    """Return what a calculation offers; ``partly`` counts those of which some steps are missing.

    :raises ValueError: saying why it offers nothing.
    """
    inputs = table.inputs[pk]
    if 'parameters' not in inputs or 'structure' not in inputs:
        raise ValueError('parameters or structure are not in this profile')
    parameters = plain_sections(inputs['parameters'][2])
    kind = run_type(parameters)
    if kind not in _KINDS:
        raise ValueError(f'{kind} calculations are not read')
    status, message = table.ends[pk]
    if status != 0 and not _KINDS[kind]:
        raise ValueError(f'{kind} ended with exit status {status}: {message}')
    if 'retrieved' not in table.outputs[pk]:
        raise ValueError(f'{kind} without retrieved files')
    check_described(parameters)
    structure = inputs['structure'][2]
    symbols = {item['name']: item['symbols'][0] for item in structure['kinds']}
    pbc, isolated = periodicity(parameters), is_isolated(len(structure['sites']), structure['cell'])
    if isolated and not spin_of(parameters)[0]:
        raise ValueError('an isolated atom that is not spin-polarised has too high an energy')
    k_points = _k_points(parameters, inputs, structure['cell'], pbc, isolated)
    files = {node[2]['filename']: node[0] for label, node in inputs.items() if label.startswith('file__')
             and 'filename' in node[2]}  # fmt: skip
    if any(label.startswith(_NODES) for label in inputs):
        raise ValueError('basis sets or potentials as nodes, not as files')
    physics = {'FORCE_EVAL': {key: parameters['FORCE_EVAL'].get(key, {}) for key in ('DFT', 'SUBSYS')}}
    rest = level(physics, symbols, files)
    theirs: dict[str, Any] = {name: rest.pop(name) for name in _BY_ELEMENT if name in rest}
    kinds = rest.pop('kinds', {})
    theirs['kinds'] = {element: kinds.get(element, {}) for element in symbols.values()}
    result = table.outputs[pk]['retrieved'][0]
    steps = read_steps(orm.load_node(result), parameters, structure)
    if steps.missing:
        partly[f'{kind}, in part: steps without {steps.missing}'] += 1
    return Source(
        calculation=pk,
        result=result,
        n_frames=len(steps.numbers),
        n_atoms=len(structure['sites']),
        rest=rest,
        by_element=theirs,
        k_points=k_points,
        isolated=isolated,
    )


def _k_points(
    parameters: Mapping[str, Any], inputs: Mapping[str, Node], cell: Any, pbc: list[bool], isolated: bool
) -> KPoints:
    """Return the rules that give the k-points; aiida-cp2k hands on the mesh of a node, not its offset.

    :raises ValueError: if no rule gives them.
    """
    mesh = _mesh(parameters['FORCE_EVAL']['DFT'].get('KPOINTS'))
    if 'kpoints' in inputs:
        if 'mesh' not in inputs['kpoints'][2]:
            raise ValueError('k-points given one by one, not as a mesh')
        mesh = tuple(inputs['kpoints'][2]['mesh'])
    if isolated or not any(pbc):
        if mesh != (1, 1, 1):
            raise ValueError('a molecule or an isolated atom with other k-points than Γ')
        return ANY_RULE if isolated else KPoints(interval=None, rest={}, gamma=True)
    interval = distance_interval(cell, pbc, mesh)
    if interval is None:
        raise ValueError('a mesh of k-points that no distance gives')
    rule = {'scheme': 'Monkhorst-Pack', 'mesh_of': 'reference cell'}
    return KPoints(interval=interval, rest=rule, gamma=mesh == (1, 1, 1))


def _mesh(section: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Return the mesh in a section KPOINTS.

    :raises ValueError: for other k-points than a Monkhorst-Pack mesh.
    """
    scheme = str((section or {}).get('SCHEME', 'GAMMA')).upper()
    match = re.fullmatch(r'MONKHORST-PACK\s+(\d+)\s+(\d+)\s+(\d+)', scheme.strip())
    if set(section or {}) - _NOT_K_POINTS or not (match or scheme == 'GAMMA'):
        raise ValueError('k-points other than a Monkhorst-Pack mesh')
    return tuple(map(int, match.groups())) if match else (1, 1, 1)
