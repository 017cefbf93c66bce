"""What pw.x is asked for, frame by frame: kinds of atoms, k-point mesh, spin, charge, Hubbard U."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any, Final

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.frames import frame_kinds, frame_structure, kpoint_mesh, mesh_key, variant_key
from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size

__all__ = ('PwFrames', 'prepare_pw_inputs', 'pseudo_valence', 'pw_parameters')

#: What sets up a slab or a wire, and means nothing for an atom in a box of its own.
_SLAB_KEYWORDS: Final = {
    'CONTROL': ('tefield', 'dipfield', 'lelfield', 'gate'),
    'SYSTEM': ('assume_isolated', 'esm_bc', 'esm_w', 'esm_efield', 'edir', 'emaxpos', 'eopreg', 'eamp', 'tot_charge'),
}


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


def pw_parameters(
    parameters: Mapping[str, Any], frames: Configurations, index: int, valences: Mapping[str, float]
) -> dict[str, Any]:
    """Return the namelists for one frame: ``parameters`` with the charge and spin that the frame asks for.

    Whatever SYSTEM says by element (``hubbard_u``, ``starting_magnetization``) is spelled by kind. Initial moments of
    the frame win over ``starting_magnetization``; pw.x wants the latter as a share of the valence electrons.

    :param valences: valence electrons by element.
    """
    result = {namelist: dict(values) for namelist, values in parameters.items()}
    system, electrons = result.setdefault('SYSTEM', {}), result.setdefault('ELECTRONS', {})
    isolated = frames.role[index] == 'isolated_atom'
    if isolated:
        for namelist, keywords in _SLAB_KEYWORDS.items():
            for keyword in keywords:
                result.get(namelist, {}).pop(keyword, None)
    _, kinds = frame_kinds(frames, index)
    for keyword, values in list(system.items()):
        if isinstance(values, dict):
            system[keyword] = {kind: values[symbol] for kind, (symbol, _) in kinds.items() if symbol in values}
            if not system[keyword]:
                del system[keyword]
    if not any(keyword.startswith('hubbard') for keyword in system):  # none of its elements has a U
        for keyword in ('lda_plus_u', 'lda_plus_u_kind', 'u_projection_type'):
            system.pop(keyword, None)
    unpaired = int(frames.multiplicity[index]) - 1
    if unpaired >= 0:
        system.update(nspin=2, tot_magnetization=unpaired)
    if system.get('nspin') == 2:
        if any(moment for _, moment in kinds.values()):
            start = {kind: moment / valences[symbol] for kind, (symbol, moment) in kinds.items()}
        elif unpaired >= 0:
            start = dict.fromkeys(kinds, 0.5 if unpaired else 0.0)
        else:
            start = dict.fromkeys(kinds, 0.0) | system.get('starting_magnetization', {})
        system['starting_magnetization'] = {kind: start[kind] for kind in sorted(start)}
    if frames.charge[index]:
        system['tot_charge'] = int(frames.charge[index])
    if isolated:
        # Degenerate levels of an open shell are filled evenly by a narrow smearing, without symmetry to pin them.
        system.update(occupations='smearing', smearing='gaussian', degauss=0.002, nosym=True)
        electrons.update(mixing_beta=0.3, electron_maxstep=100)
    return result


class PwFrames:
    """What pw.x is asked for, frame by frame.

    :param frames: the frames of a chunk.
    :param inputs: ``parameters``, ``pseudos`` (by element), ``kpoints_distance``, ``kpoints_offset`` and, if wanted,
        ``hubbard``: nodes as ``QuantumEspressoEngine`` describes them.
    """

    def __init__(self, frames: Configurations, inputs: Mapping[str, Any]) -> None:
        self._frames = frames
        self._parameters = inputs['parameters'].get_dict()
        self._distance = inputs['kpoints_distance'].value
        self._offset = inputs['kpoints_offset'].get_list()
        self._hubbard = inputs['hubbard'].get_dict() if 'hubbard' in inputs else {}
        self._valences = {element: pseudo_valence(pseudo) for element, pseudo in inputs['pseudos'].items()}

    def mesh(self, index: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return k-point mesh and offset."""
        return kpoint_mesh(self._frames, index, self._distance, self._offset)

    def kpoints(self, index: int) -> orm.KpointsData:
        """Return :meth:`mesh` as a node."""
        mesh, shift = self.mesh(index)
        kpoints = orm.KpointsData()
        kpoints.set_kpoints_mesh(mesh, offset=shift)
        return kpoints

    def parameters(self, index: int) -> dict[str, Any]:
        """Return the namelists."""
        return pw_parameters(self._parameters, self._frames, index, self._valences)

    def size(self, index: int) -> Size:
        """Return electrons and k-points."""
        names, kinds = frame_kinds(self._frames, index)
        n_electrons = sum(self._valences[kinds[name][0]] for name in names) - int(self._frames.charge[index])
        return Size(max(n_electrons, 1.0), prod(self.mesh(index)[0]))

    def structure(self, index: int) -> orm.StructureData:
        """Return the atoms in the order of the frame, with a Hubbard U where there is one."""
        structure = frame_structure(self._frames, index)
        names, kinds = frame_kinds(self._frames, index)
        values = {tuple(orbital.split('-', 1)): float(value) for orbital, value in self._hubbard.get('U', {}).items()}
        onsite = [
            (names.index(kind), orbital, value)
            for kind, (symbol, _) in sorted(kinds.items())
            for (element, orbital), value in values.items()
            if element == symbol
        ]
        if not onsite:
            return structure
        from aiida_quantumespresso.common.hubbard import Hubbard, HubbardParameters
        from aiida_quantumespresso.data.hubbard_structure import HubbardStructureData

        terms = [
            HubbardParameters.from_tuple((site, orbital, site, orbital, value, (0, 0, 0), 'U'))
            for site, orbital, value in onsite
        ]
        return HubbardStructureData.from_structure(
            structure, Hubbard(parameters=terms, projectors=self._hubbard.get('projectors', 'ortho-atomic'))
        )


@calcfunction
def prepare_pw_inputs(
    frames: ConfigurationsData,
    parameters: orm.Dict,
    kpoints_distance: orm.Float,
    kpoints_offset: orm.List,
    hubbard: orm.Dict | None = None,
    **pseudos: orm.Data,
) -> dict[str, dict[str, orm.Data]]:
    """Return the structures of all frames, and each k-point mesh and set of parameters that they need, once."""
    inputs: dict[str, Any] = {
        'parameters': parameters,
        'pseudos': pseudos,
        'kpoints_distance': kpoints_distance,
        'kpoints_offset': kpoints_offset,
        **({} if hubbard is None else {'hubbard': hubbard}),
    }
    asked = PwFrames(frames.configurations, inputs)
    structures: dict[str, orm.Data] = {}
    meshes: dict[str, orm.Data] = {}
    variants: dict[str, orm.Data] = {}
    for index in range(frames.n_frames):
        structures[frame_key(index)] = asked.structure(index)
        mesh, variant = mesh_key(*asked.mesh(index)), asked.parameters(index)
        if mesh not in meshes:
            meshes[mesh] = asked.kpoints(index)
        variants.setdefault(variant_key(variant), orm.Dict(variant))
    return {'structures': structures, 'kpoints': meshes, 'parameters': variants}
