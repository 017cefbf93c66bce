"""What a finished CP2K calculation says of its level of theory, put as the engine puts it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from aiida import orm

from aiida_mlipal.workflows.engines.cp2k_inputs import complete_parameters
from aiida_mlipal.workflows.engines.cp2k_level_of_theory import cp2k_level_of_theory, is_xtb, kinds_of
from aiida_mlipal.workflows.harvest.tables import by_element

__all__ = ('check_described', 'level_without_k_points', 'periodicity', 'plain_sections', 'shared_parameters', 'spin_of')

_NUMBER: Final = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?')
_LOGICAL: Final = {'.TRUE.': True, '.FALSE.': False, '.T.': True, '.F.': False, 'TRUE': True, 'FALSE': False}
#: Sections and keywords of FORCE_EVAL that a level of theory describes, or that do not change what is computed.
_DESCRIBED: Final = {'METHOD', 'DFT', 'SUBSYS', 'PRINT', 'PROPERTIES', 'STRESS_TENSOR'}
#: Keywords of CELL beside which the cell is that of the structure.
_CELL: Final = {'PERIODIC', 'SYMMETRY'}
#: Keywords of a KIND section that make no difference to energy and forces of a frame, or only start the SCF.
_NOT_OF_KIND: Final = ('_', 'ELEMENT', 'MAGNETIZATION', 'MASS')
#: The keyword of DFT that names a file, and the file that CP2K reads without it.
_FILES: Final = {'BASIS_SET_FILE_NAME': 'BASIS_SET', 'POTENTIAL_FILE_NAME': 'POTENTIAL'}


def plain_sections(value: Any) -> Any:
    """Return input sections with numbers and logicals that were given as text as what they are."""
    if isinstance(value, Mapping):
        return {key: plain_sections(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_sections(item) for item in value]
    if isinstance(value, str):
        word = value.strip()
        if _NUMBER.fullmatch(word):
            number = float(word.upper().replace('D', 'E'))
            return int(number) if number.is_integer() and word.lstrip('+-').isdigit() else number
        return _LOGICAL.get(word.upper(), value)
    return value


def _is_on(value: Any) -> bool:
    return value is True or str(value).upper() in ('T', 'ON', 'YES', 'TRUE')


def check_described(parameters: Mapping[str, Any]) -> None:
    """Refuse input sections whose energy or forces no level of theory describes.

    :raises ValueError: saying which.
    """
    force_eval = parameters.get('FORCE_EVAL')
    if not isinstance(force_eval, Mapping) or 'DFT' not in force_eval:
        raise ValueError('no FORCE_EVAL with DFT, or several')
    method = str(force_eval.get('METHOD', 'QS')).upper()
    if method not in ('QS', 'QUICKSTEP'):
        raise ValueError(f'FORCE_EVAL.METHOD is {method}, not QUICKSTEP')
    motion = parameters.get('MOTION', {})
    for name in sorted(set(force_eval) - _DESCRIBED):
        raise ValueError(f'FORCE_EVAL.{name} is described by no level of theory')
    for name in ('CONSTRAINT', 'FREE_ENERGY'):
        if name in motion:
            raise ValueError(f'MOTION.{name} changes the forces')
    subsys = force_eval.get('SUBSYS', {})
    kinds = subsys.get('KIND', [])
    if any('_' not in kind for kind in ([kinds] if isinstance(kinds, Mapping) else kinds)):
        raise ValueError('a KIND without a name')
    if set(subsys.get('CELL', {})) - _CELL or 'COORD' in subsys:
        raise ValueError('cell or positions are set in the parameters, not by the structure')


def periodicity(parameters: Mapping[str, Any]) -> list[bool]:
    """Return the periodic directions, which aiida-cp2k does not take from the structure.

    :raises ValueError: if the cell and the electrostatics differ.
    """
    force_eval = parameters['FORCE_EVAL']
    stated = [
        str(section.get('PERIODIC', 'XYZ')).upper()
        for section in (force_eval.get('SUBSYS', {}).get('CELL', {}), force_eval['DFT'].get('POISSON', {}))
    ]
    cell, poisson = ([axis in value and value != 'NONE' for axis in 'XYZ'] for value in stated)
    if cell != poisson:
        raise ValueError(f'CELL is periodic in {stated[0]}, POISSON in {stated[1]}')
    return poisson


def _smearing(dft: Mapping[str, Any]) -> dict[str, Any] | None:
    smearing = dft.get('SCF', {}).get('SMEAR')
    return dict(smearing) if isinstance(smearing, Mapping) and _is_on(smearing.get('_', True)) else None


def spin_of(parameters: Mapping[str, Any]) -> tuple[bool, int]:
    """Return whether spins are free, and the multiplicity of the one state that was computed, 0 if it was not fixed."""
    dft = parameters['FORCE_EVAL']['DFT']
    free = any(_is_on(dft.get(name, False)) for name in ('UKS', 'LSD', 'SPIN_POLARIZED'))
    smearing = _smearing(dft)
    if smearing is not None:
        fixed = float(smearing.get('FIXED_MAGNETIC_MOMENT', -100.0))
        return free, round(fixed) + 1 if free and fixed >= 0 else 0
    return free, int(dft.get('MULTIPLICITY', 0)) if free else 0


def shared_parameters(parameters: Mapping[str, Any], symbols: Mapping[str, str]) -> dict[str, Any]:
    """Return the sections from which the engine would make those of a calculation, without what follows from the frame.

    :param parameters: plain sections that :func:`check_described` accepts.
    :param symbols: elements by kind of atom.
    :raises ValueError: if atoms of one element are treated differently.
    """
    pbc, dft = periodicity(parameters), deepcopy(dict(parameters['FORCE_EVAL']['DFT']))
    dft.pop('KPOINTS', None)
    charge = int(dft.pop('CHARGE', 0))
    if charge and any(pbc):
        dft['CHARGE'] = charge  # and a uniform background, which the engine wants to be stated
    poisson = {key: value for key, value in dft.pop('POISSON', {}).items() if key != 'PERIODIC'}
    usual = 'PERIODIC' if all(pbc) else 'ANALYTIC' if any(pbc) else 'MT'
    if str(poisson.get('POISSON_SOLVER', 'PERIODIC')).upper() == usual:
        poisson.pop('POISSON_SOLVER', None)
    else:
        poisson.setdefault('POISSON_SOLVER', 'PERIODIC')
    if poisson:
        dft['POISSON'] = poisson
    smearing = _smearing(dft)
    dft['SCF'] = {}
    if smearing is not None:
        dft['SCF'] = {'SMEAR': {key: smearing[key] for key in smearing if key not in ('_', 'FIXED_MAGNETIC_MOMENT')}}
    method = dft.setdefault('QS', {})
    method.setdefault('METHOD', 'GPW')
    if is_xtb({'FORCE_EVAL': {'DFT': dft}}):
        xtb = method.setdefault('XTB', {})
        if any(pbc) and 'COULOMB_SR_CUT' not in xtb.get('PARAMETER', {}):
            # The engine refuses it, too.
            raise ValueError("a periodic cell with CP2K's own xTB, and no COULOMB_SR_CUT stated: not to be trusted")
        xtb.pop('CHECK_ATOMIC_CHARGES', None)
        if _is_on(xtb.get('DO_EWALD', all(pbc))) == all(pbc):
            xtb.pop('DO_EWALD', None)
    _state_dispersion(dft.get('XC', {}))
    named = kinds_of(parameters)
    sections = {kind: named.get(kind, named.get(symbols[kind], named.get('DEFAULT', {}))) for kind in symbols}
    elements = by_element(
        {kind: {key: section[key] for key in section if key not in _NOT_OF_KIND} for kind, section in sections.items()},
        symbols,
        'basis sets, potentials or other settings',
    )
    kinds = [{**section, '_': element, 'ELEMENT': element} for element, section in elements.items()]
    sections = {'FORCE_EVAL': {'DFT': dft, 'SUBSYS': {'KIND': kinds}}}
    return complete_parameters(sections, k_points=False, elements=list(elements))


def _state_dispersion(section: dict[str, Any]) -> None:
    """Say what CP2K assumes where nothing is said; the engine has other defaults."""
    dispersion = section.get('VDW_POTENTIAL')
    if dispersion is None:
        return
    if str(dispersion.get('POTENTIAL_TYPE', 'NONE')).upper() == 'NONE':
        del section['VDW_POTENTIAL']
        return
    pair = dispersion.setdefault('PAIR_POTENTIAL', {})
    if not isinstance(pair, dict):
        raise ValueError('several pair potentials for the dispersion')
    pair.setdefault('TYPE', 'DFTD3')
    pair.setdefault('PARAMETER_FILE_NAME', 'DISPERSION_PARAMETERS')


def level_without_k_points(
    parameters: Mapping[str, Any], symbols: Mapping[str, str], files: Mapping[str, int]
) -> dict[str, Any]:
    """Return the level of theory of a calculation, without its k-points.

    :param files: PKs of the files of basis sets and potentials that it was given, by file name.
    :raises ValueError: if a file is missing, or if functional, potentials and basis sets do not go together.
    """
    shared = shared_parameters(parameters, symbols)
    texts: list[str | None] = [None, None]
    if not is_xtb(shared):
        _check_kinds(shared)
        stated = parameters['FORCE_EVAL']['DFT']
        texts = [_text(stated.get(keyword, usual), files) for keyword, usual in _FILES.items()]
    theory = cp2k_level_of_theory(shared, None, *texts)
    del theory['k_points']
    return theory


def _check_kinds(shared: Mapping[str, Any]) -> None:
    for element, kind in kinds_of(shared).items():
        missing = [name for name in ('BASIS_SET', 'POTENTIAL') if name not in kind]
        if missing:
            raise ValueError(f'no {" and ".join(missing)} for {element} in the parameters')


def _text(names: str | Sequence[str], files: Mapping[str, int]) -> str:
    """Return the text of files that a calculation was given."""
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in files:
            raise ValueError(f'`{name}` was read from a folder of CP2K: what was in it is not recorded')
    return '\n'.join(orm.load_node(files[name]).get_content() for name in wanted)
