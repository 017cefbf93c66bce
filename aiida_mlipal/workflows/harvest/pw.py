"""What finished pw.x calculations offer to a harvest, from the database alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.kpoint_rules import Interval, distance_interval
from aiida_mlipal.workflows.engines.pw_level_of_theory import pw_level_of_theory
from aiida_mlipal.workflows.harvest.pw_steps import fixes_spin, harvest_pw, ionic_steps, is_isolated, namelists
from aiida_mlipal.workflows.harvest.sources import Source, batches

__all__ = ('PwReader',)

#: What is read, and whether its ionic steps are good labels although the calculation as a whole ended badly: pw.x goes
#: on to the next step only from a converged SCF. A single point that failed leaves nothing.
_KINDS: Final = {'scf': False, 'relax': True, 'md': True, 'vc-relax': True, 'vc-md': True}
#: Ways to end badly that say nothing about the steps before: out of wall time (340, 400), ionic thresholds, number of
#: steps or BFGS (500 to 503, 520), an SCF of a later step that did not converge (510, 511, 521), a cell that lost its
#: symmetry or shrank too far (541, 542).
_GOOD_STEPS: Final = (120, 140, 340, 400, 500, 501, 502, 503, 510, 511, 520, 521, 541, 542)


class PwReader:
    """Reader of ``quantumespresso.pw``."""

    plugin = 'quantumespresso.pw'

    def sources(self, pks: Collection[int]) -> tuple[list[Source], Counter[str]]:
        """Return what these calculations offer, oldest first, and why others offer nothing, counted."""
        found: list[Source] = []
        left_out: Counter[str] = Counter()
        levels = _Levels()
        for batch in batches(pks):
            table = _Table(batch)
            for pk in batch:
                try:
                    found.append(_source(pk, table, levels))
                except ValueError as exception:
                    left_out[str(exception)] += 1
        return found, left_out

    def frames(self, results: Sequence[orm.Data], level_of_theory: Mapping[str, Any]) -> Configurations:
        """Return every ionic step of these trajectories."""
        return Configurations.concatenate([ionic_steps(result, level_of_theory) for result in results])

    def collect(self) -> Callable[..., ConfigurationsData]:
        """Return :func:`harvest_pw`."""
        function: Callable[..., ConfigurationsData] = harvest_pw
        return function


class _Table:
    """Attributes of the nodes around many calculations, in a few queries."""

    def __init__(self, pks: list[int]) -> None:
        query = orm.QueryBuilder().append(
            orm.CalcJobNode,
            filters={'id': {'in': pks}},
            project=['id', 'attributes.exit_status', 'attributes.exit_message'],
        )
        self.ends = {pk: (status, message) for pk, status, message in query.all()}
        self.inputs: dict[int, dict[str, tuple[int, str, dict[str, Any]]]] = {pk: {} for pk in pks}
        self.outputs: dict[int, dict[str, tuple[int, str, dict[str, Any]]]] = {pk: {} for pk in pks}
        wanted = {
            'or': [{'in': ['parameters', 'structure', 'kpoints', 'settings', 'hubbard_file']}, {'like': 'pseudos__%'}]
        }
        for direction, store, labels in (
            ('with_outgoing', self.inputs, wanted),
            ('with_incoming', self.outputs, {'in': ['output_trajectory']}),
        ):
            query = orm.QueryBuilder().append(orm.CalcJobNode, filters={'id': {'in': pks}}, tag='job', project='id')
            query.append(
                orm.Data,
                edge_filters={'label': labels},
                edge_project='label',
                project=['id', 'node_type', 'attributes'],
                **{direction: 'job'},
            )
            for job, pk, node_type, attributes, label in query.iterall(batch_size=200):
                store[job][label] = (pk, node_type, attributes)


class _Levels:
    """Levels of theory by what makes them, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any] | str] = {}

    def get(
        self, parameters: Mapping[str, Any], pseudos: Mapping[str, int], hubbard: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Return the level of theory with some rule for k-points.

        :raises ValueError: if functionals are mixed.
        """
        physics = {name: parameters.get(name, {}) for name in ('CONTROL', 'SYSTEM')}
        key = json.dumps([physics, dict(pseudos), hubbard], sort_keys=True, default=str)
        if key not in self._known:
            nodes = {element: orm.load_node(pk) for element, pk in pseudos.items()}
            try:
                self._known[key] = pw_level_of_theory(parameters, 1.0, [0.0, 0.0, 0.0], nodes, hubbard)
            except ValueError as exception:
                self._known[key] = str(exception)
        level = self._known[key]
        if isinstance(level, str):
            raise ValueError(level)
        return dict(level)


def _source(pk: int, table: _Table, levels: _Levels) -> Source:
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
    pseudos = _by_element({label.removeprefix('pseudos__'): item[0] for label, item in inputs.items()
                           if label.startswith('pseudos__')}, symbols, 'pseudopotentials')  # fmt: skip
    system: dict[str, Any] = {
        key: _by_element(value, symbols, key) if isinstance(value, dict) else value
        for key, value in parameters['SYSTEM'].items()
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
    interval, offset = _mesh(inputs['kpoints'][2], structure['cell'], pbc, isolated)
    hubbard = _hubbard(inputs, structure_type)
    rest = levels.get(
        {**parameters, 'SYSTEM': system}, {element: pseudos[element] for element in sorted(pseudos)}, hubbard
    )
    del rest['k_points']
    return Source(
        calculation=pk,
        result=result,
        n_frames=int(trajectory['array|energy'][0]),
        n_atoms=n_atoms,
        by_element={'pseudopotentials': rest.pop('pseudopotentials')},
        rest=rest,
        interval=interval,
        offset=offset,
        isolated=isolated,
    )


def _by_element(values: Mapping[str, Any], symbols: Mapping[str, str], what: str) -> dict[str, Any]:
    """Return what is given by kind of atom by element.

    :raises ValueError: if two kinds of an element differ; the starting magnetization may.
    """
    found: dict[str, Any] = {}
    for kind, value in values.items():
        element = symbols.get(kind, kind)
        if found.setdefault(element, value) != value and what != 'starting_magnetization':
            raise ValueError(f'atoms of one element have different {what}')
    return found


def _mesh(
    kpoints: Mapping[str, Any], cell: Any, pbc: list[bool], isolated: bool
) -> tuple[Interval | None, tuple[float, ...] | None]:
    """Return the distances that give a mesh, and its offset; ``None`` for molecules and isolated atoms, always at Γ.

    :raises ValueError: if no rule gives the k-points.
    """
    if 'mesh' not in kpoints:
        raise ValueError('k-points given one by one, not as a mesh')
    mesh, offset = tuple(kpoints['mesh']), tuple(0.5 if value else 0.0 for value in kpoints['offset'])
    if isolated or not any(pbc):
        if mesh != (1, 1, 1) or any(offset):
            raise ValueError('a molecule or an isolated atom with other k-points than Γ')
        return None, None
    interval = distance_interval(cell, pbc, mesh)
    if interval is None:
        raise ValueError('a mesh of k-points that no distance gives')
    return interval, offset


def _hubbard(inputs: Mapping[str, tuple[int, str, dict[str, Any]]], structure_type: str) -> dict[str, Any] | None:
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
