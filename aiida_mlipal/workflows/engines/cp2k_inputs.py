"""What CP2K is asked for, frame by frame: box, periodicity, spin, charge, occupations, k-points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from numpy.typing import NDArray

from aiida_mlipal.calculations.frames import frame_kinds, frame_structure, kpoint_mesh, mesh_key, variant_key
from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines.cp2k_level_of_theory import is_xtb, kinds_of, valences_of

__all__ = (
    'complete_parameters', 'cp2k_mesh', 'cp2k_parameters', 'frame_box', 'n_electrons', 'prepare_cp2k_inputs', 'uses_ot',
)  # fmt: skip

#: Å of empty space around a molecule, and the least edge of its box in lengths of the molecule: what the
#: Martyna-Tuckerman solver needs to see no image (J. Chem. Phys. 110, 2810 (1999)). Not a whole number, so that
#: a planar molecule is not on the brink of the next larger box.
_VACUUM: Final = 4.2
_EDGE: Final = 2.0
#: Virtual orbitals that a smearing may occupy: a few, and more for more electrons.
_ADDED_MOS: Final = (10, 0.1)
#: K. Degenerate levels of an open shell are filled evenly by a narrow smearing.
_ATOM_TEMPERATURE: Final = 300.0


def uses_ot(parameters: Mapping[str, Any]) -> bool:
    """Return whether the orbital transformation finds the ground state, which needs a gap and no k-points."""
    return 'OT' in parameters['FORCE_EVAL']['DFT'].get('SCF', {})


def complete_parameters(parameters: Mapping[str, Any], *, k_points: bool, elements: list[str]) -> dict[str, Any]:
    """Return ``parameters`` with all that was left open: the solver, one KIND section per element, xTB's own rules.

    Without k-points, smearing or DIAGONALIZATION the solver is OT, otherwise diagonalisation with Broyden mixing.
    """
    result: dict[str, Any] = deepcopy(dict(parameters))
    dft = result.setdefault('FORCE_EVAL', {}).setdefault('DFT', {})
    scf = dft.setdefault('SCF', {})
    tolerance = scf.setdefault('EPS_SCF', 1e-7)
    if not k_points and not {'SMEAR', 'DIAGONALIZATION'} & set(scf):
        scf.setdefault('OT', {'MINIMIZER': 'DIIS', 'PRECONDITIONER': 'FULL_SINGLE_INVERSE'})
    if 'OT' in scf:
        scf.setdefault('MAX_SCF', 30)
        scf.setdefault('OUTER_SCF', {'MAX_SCF': 10, 'EPS_SCF': tolerance})
    else:
        scf.setdefault('MAX_SCF', 150)
        scf.setdefault('DIAGONALIZATION', {'ALGORITHM': 'STANDARD'})
        scf.setdefault('MIXING', {'METHOD': 'BROYDEN_MIXING', 'ALPHA': 0.2})
    dispersion = dft.get('XC', {}).get('VDW_POTENTIAL')
    if dispersion is not None:
        dispersion.setdefault('POTENTIAL_TYPE', 'PAIR_POTENTIAL')
        pair = dispersion.setdefault('PAIR_POTENTIAL', {})
        pair.setdefault('TYPE', 'DFTD3(BJ)')
        pair.setdefault('PARAMETER_FILE_NAME', 'dftd3.dat')
        pair.setdefault('REFERENCE_FUNCTIONAL', dft['XC'].get('XC_FUNCTIONAL', {}).get('_', 'PBE'))
    kinds = kinds_of(result)
    subsys = result['FORCE_EVAL'].setdefault('SUBSYS', {})
    if is_xtb(result):
        for keyword in ('XC', 'MGRID', 'BASIS_SET_FILE_NAME', 'POTENTIAL_FILE_NAME'):
            dft.pop(keyword, None)
        # A hot frame may have odd charges: whether to believe it is decided by the checks of the labels.
        dft['QS'].setdefault('XTB', {}).setdefault('CHECK_ATOMIC_CHARGES', False)
        subsys['KIND'] = [kind for name, kind in kinds.items() if name != 'DEFAULT']
    else:
        default = kinds.pop('DEFAULT', {})
        subsys['KIND'] = [
            {**default, **kinds.get(element, {}), '_': element, 'ELEMENT': element} for element in sorted(elements)
        ]
    return result


def n_electrons(frames: Configurations, index: int, valences: Mapping[str, float]) -> int:
    """Return the electrons of a frame that are not in a core."""
    names, kinds = frame_kinds(frames, index)
    return round(sum(valences[kinds[name][0]] for name in names)) - int(frames.charge[index])


def frame_box(frames: Configurations, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return cell and positions (Å) for CP2K.

    A molecule gets a box by a rule, in steps of 1 Å so that the grid stays the same along a trajectory, and sits in its
    middle; any other frame keeps the cell it has.
    """
    positions = frames.positions[frames.offsets[index] : frames.offsets[index + 1]]
    if frames.pbc[index].any():
        return frames.cell[index], positions
    lowest, highest = positions.min(axis=0), positions.max(axis=0)
    extent = highest - lowest
    edges = np.ceil(np.maximum(extent + 2 * _VACUUM, _EDGE * extent) - 1e-8)
    return np.diag(edges), positions - (lowest + highest) / 2 + edges / 2


def cp2k_mesh(frames: Configurations, index: int, distance: float | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the Monkhorst-Pack mesh of a frame and its offset: CP2K's even meshes lie half a step beside Γ."""
    if distance is None:
        return (1, 1, 1), (0.0, 0.0, 0.0)
    mesh, _ = kpoint_mesh(frames, index, distance, [0.0, 0.0, 0.0])
    return mesh, tuple(0.0 if count % 2 else 0.5 for count in mesh)


def _spin(dft: dict[str, Any], frames: Configurations, index: int, electrons: int) -> None:
    """Set UKS and MULTIPLICITY: as the frame says, else from its moments, else the lowest that the electrons allow."""
    moments = frames.initial_moments[frames.offsets[index] : frames.offsets[index + 1]]
    unpaired = int(frames.multiplicity[index]) - 1
    stated = unpaired >= 0
    if not stated and (moments.any() or dft.get('UKS') or electrons % 2):
        unpaired = abs(round(float(moments.sum())))
        unpaired += ((unpaired + electrons) % 2) * (-1 if unpaired else 1)
    if unpaired < 0:
        return
    dft.update(UKS=True, MULTIPLICITY=unpaired + 1)
    if stated and 'SMEAR' in dft['SCF']:
        dft['SCF']['SMEAR']['FIXED_MAGNETIC_MOMENT'] = float(unpaired)


def _occupations(dft: dict[str, Any], electrons: int, *, isolated: bool) -> None:
    """Give a smearing orbitals to occupy; an isolated atom has a narrow one, whatever the others have."""
    scf = dft['SCF']
    if isolated:
        scf.pop('OT', None)
        scf.pop('OUTER_SCF', None)
        scf.update(
            MAX_SCF=100,
            DIAGONALIZATION={'ALGORITHM': 'STANDARD'},
            MIXING={'METHOD': 'BROYDEN_MIXING', 'ALPHA': 0.2},
            SMEAR={'METHOD': 'FERMI_DIRAC', 'ELECTRONIC_TEMPERATURE': _ATOM_TEMPERATURE},
        )
    if 'SMEAR' in scf and 'ADDED_MOS' not in scf:
        fewest, share = _ADDED_MOS
        scf['ADDED_MOS'] = fewest + math.ceil(share * electrons)


def cp2k_parameters(
    parameters: Mapping[str, Any], frames: Configurations, index: int, valences: Mapping[str, float]
) -> dict[str, Any]:
    """Return the input sections for one frame: ``parameters`` with the periodicity, charge and spin of the frame.

    :param parameters: completed ones.
    :param valences: electrons that are not in a core, by element.
    """
    result: dict[str, Any] = deepcopy(dict(parameters))
    result.setdefault('GLOBAL', {})['RUN_TYPE'] = 'ENERGY_FORCE'
    force_eval = result['FORCE_EVAL']
    dft, subsys = force_eval['DFT'], force_eval.setdefault('SUBSYS', {})
    isolated = frames.role[index] == 'isolated_atom'
    periodic = frames.pbc[index]
    electrons = n_electrons(frames, index, valences)
    force_eval['METHOD'] = 'QUICKSTEP'
    force_eval.setdefault('STRESS_TENSOR', 'ANALYTICAL')
    if isolated or not periodic.all():
        force_eval['STRESS_TENSOR'] = 'NONE'
    printed = force_eval.setdefault('PRINT', {})
    printed['FORCES'] = {'_': 'ON', 'NDIGITS': 12}
    printed['STRESS_TENSOR'] = {'_': 'ON'}
    directions = ''.join(axis for axis, yes in zip('XYZ', periodic, strict=True) if yes) or 'NONE'
    subsys['CELL'] = {**subsys.get('CELL', {}), 'PERIODIC': directions}
    poisson = dft.setdefault('POISSON', {})
    poisson['PERIODIC'] = directions
    if directions != 'XYZ':
        poisson.setdefault('POISSON_SOLVER', 'ANALYTIC' if periodic.any() else 'MT')
    if is_xtb(result):
        dft['QS']['XTB'].setdefault('DO_EWALD', bool(periodic.all()))
    dft['CHARGE'] = int(frames.charge[index])
    _occupations(dft, electrons, isolated=isolated)
    _spin(dft, frames, index, electrons)
    _, kinds = frame_kinds(frames, index)
    if any(moment for _, moment in kinds.values()):
        by_element = {kind['_']: kind for kind in subsys['KIND']}
        subsys['KIND'] = [
            {**by_element.get(symbol, {}), '_': name, 'ELEMENT': symbol, 'MAGNETIZATION': moment}
            for name, (symbol, moment) in sorted(kinds.items())
        ]
    return result


@calcfunction
def prepare_cp2k_inputs(
    frames: ConfigurationsData,
    parameters: orm.Dict,
    kpoints_distance: orm.Float | None = None,
    potentials: orm.SinglefileData | None = None,
) -> dict[str, dict[str, orm.Data]]:
    """Return the structures of all frames, and each k-point mesh and set of parameters that they need, once."""
    configurations, shared = frames.configurations, parameters.get_dict()
    valences = valences_of(configurations.elements, None if potentials is None else potentials.get_content())
    distance = None if kpoints_distance is None else kpoints_distance.value
    structures: dict[str, orm.Data] = {}
    meshes: dict[str, orm.Data] = {}
    variants: dict[str, orm.Data] = {}
    for index in range(len(configurations)):
        structures[frame_key(index)] = frame_structure(configurations, index, *frame_box(configurations, index))
        mesh, offset = cp2k_mesh(configurations, index, distance)
        if math.prod(mesh) > 1 and mesh_key(mesh, offset) not in meshes:
            meshes[mesh_key(mesh, offset)] = kpoints = orm.KpointsData()
            kpoints.set_kpoints_mesh(mesh, offset=offset)
        variant = cp2k_parameters(shared, configurations, index, valences)
        variants.setdefault(variant_key(variant), orm.Dict(variant))
    return {'structures': structures, 'parameters': variants, **({'kpoints': meshes} if meshes else {})}
