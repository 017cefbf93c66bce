"""What makes two CP2K labels comparable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from aiida import orm
from aiida.engine import calcfunction
from ase.data import atomic_numbers

from aiida_mlipal.science.level_of_theory import canonical
from aiida_mlipal.workflows.engines.cp2k_data import Entry, entry_names, find_entry, read_entries

__all__ = ('cp2k_level_of_theory', 'describe_cp2k_level_of_theory', 'is_xtb', 'kinds_of', 'valences_of')

#: Keywords of DFT that steer the solution, or follow from the frame, and do not change what is solved.
_NOT_THEORY: Final = (
    'SCF', 'PRINT', 'BASIS_SET_FILE_NAME', 'POTENTIAL_FILE_NAME', 'MULTIPLICITY', 'UKS', 'LSD', 'SPIN_POLARIZED',
    'WFN_RESTART_FILE_NAME', 'RESTART_FILE_NAME', 'AUTO_BASIS',
)  # fmt: skip
#: The same, of DFT.QS.
_NOT_THEORY_OF_QS: Final = ('EXTRAPOLATION', 'EXTRAPOLATION_ORDER')
#: Keywords of a KIND section that are recorded by themselves, or only start the SCF.
_KIND_KEYWORDS: Final = ('_', 'ELEMENT', 'BASIS_SET', 'POTENTIAL', 'MAGNETIZATION')
#: Functionals that have GTH potentials of their own.
_GTH: Final = {'PADE', 'LDA', 'PBE', 'BLYP', 'BP', 'HCTH120', 'HCTH407', 'OLYP', 'PBESOL', 'SCAN'}


def is_xtb(parameters: Mapping[str, Any]) -> bool:
    """Return whether the method is CP2K's own xTB, which has neither basis sets nor potentials to choose."""
    return str(parameters['FORCE_EVAL']['DFT'].get('QS', {}).get('METHOD', 'GPW')).upper() == 'XTB'


def kinds_of(parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the KIND sections by name (an element, or ``DEFAULT``)."""
    kinds = parameters['FORCE_EVAL'].get('SUBSYS', {}).get('KIND', [])
    return {str(kind['_']): dict(kind) for kind in ([kinds] if isinstance(kinds, Mapping) else kinds)}


def valences_of(elements: list[str], potentials: str | None) -> dict[str, float]:
    """Return the electrons that are not in the core by element; all of them where there is no potential."""
    entries = {entry.element: entry for entry in read_entries(potentials or '')}
    return {
        element: float(sum(map(int, entries[element].body.splitlines()[0].split())))
        if element in entries
        else float(atomic_numbers[element])
        for element in elements
    }


def _functional(dft: Mapping[str, Any]) -> str:
    """Return the name of the exchange-correlation functional, or its parts."""
    value = dft.get('XC', {}).get('XC_FUNCTIONAL')
    if isinstance(value, Mapping):
        value = value.get('_') or '+'.join(f'{name} {part}' if part else name for name, part in sorted(value.items()))
    if not value:
        raise ValueError('no functional: set `FORCE_EVAL: {DFT: {XC: {XC_FUNCTIONAL: {_: PBE}}}}` in the parameters.')
    return str(value).upper()


def _found(entries: list[Entry], element: str, value: str | list[str], keyword: str) -> list[Entry]:
    found = [find_entry(entries, element, name) for name in entry_names(value)]
    if None in found:
        raise ValueError(f'the file of the input {keyword} has no `{value}` for {element}; build the inputs anew.')
    return [entry for entry in found if entry is not None]


def _check_entries(element: str, basis: list[Entry], potential: Entry, functional: str) -> None:
    """Refuse a basis set or a functional that the potential was not made for."""
    for entry in basis:
        if entry.n_electrons is not None and potential.n_electrons not in (None, entry.n_electrons):
            raise ValueError(
                f'the basis set {entry.name} of {element} is for {entry.n_electrons} electrons, the potential '
                f'{potential.name} leaves {potential.n_electrons}: choose both with the same -q.'
            )
    match = re.match(r'GTH-(?:NLCC-)?([A-Z0-9]+)', potential.name.upper())
    named = match[1] if match else ''
    alias = {'LDA': 'PADE'}
    if named in _GTH and functional in _GTH and alias.get(named, named) != alias.get(functional, functional):
        raise ValueError(
            f'functionals are mixed: the potential of {element} is {potential.name}, the functional {functional}; '
            f'choose GTH-{functional}, or the functional {named}.'
        )


def cp2k_level_of_theory(
    parameters: Mapping[str, Any], kpoints_distance: float | None, basis_sets: str | None, potentials: str | None
) -> dict[str, Any]:
    """Return the readable level of theory.

    :param basis_sets: text of the basis sets that are used, ``None`` for xTB.
    :param potentials: text of the potentials that are used.
    :raises ValueError: if functional, potentials and basis sets do not go together.
    """
    dft = deepcopy(dict(parameters['FORCE_EVAL']['DFT']))
    for keyword in _NOT_THEORY_OF_QS:
        dft.get('QS', {}).pop(keyword, None)
    xtb = is_xtb(parameters)
    functional = 'GFN1-xTB' if xtb else _functional(dft)
    theory: dict[str, Any] = {
        'code': 'cp2k',
        'functional': functional,
        'occupations': dft.get('SCF', {}).get('SMEAR', 'fixed'),
        'dft': {key: value for key, value in dft.items() if key not in _NOT_THEORY},
        'k_points': 'gamma'
        if kpoints_distance is None
        else {'distance': kpoints_distance, 'scheme': 'Monkhorst-Pack', 'mesh_of': 'reference cell'},
    }
    kinds = kinds_of(parameters)
    if not xtb:
        known_bases, known_potentials = read_entries(basis_sets or ''), read_entries(potentials or '')
        theory['basis_sets'], theory['potentials'] = {}, {}
        for element, kind in sorted(kinds.items()):
            bases = _found(known_bases, element, kind['BASIS_SET'], 'basis_sets')
            (potential,) = _found(known_potentials, element, kind['POTENTIAL'], 'potentials')
            _check_entries(element, bases, potential, functional)
            theory['basis_sets'][element] = ', '.join(f'{entry.name} {entry.md5}' for entry in bases)
            theory['potentials'][element] = f'{potential.name} {potential.md5}'
    more = {
        element: own
        for element, kind in kinds.items()
        if (own := {key: value for key, value in kind.items() if key not in _KIND_KEYWORDS})
    }
    if more:
        theory['kinds'] = more
    return dict(canonical(theory))


@calcfunction
def describe_cp2k_level_of_theory(
    parameters: orm.Dict,
    kpoints_distance: orm.Float | None = None,
    basis_sets: orm.SinglefileData | None = None,
    potentials: orm.SinglefileData | None = None,
) -> orm.Dict:
    """Return the level of theory of CP2K calculations with these inputs."""
    return orm.Dict(
        cp2k_level_of_theory(
            parameters.get_dict(),
            None if kpoints_distance is None else kpoints_distance.value,
            None if basis_sets is None else basis_sets.get_content(),
            None if potentials is None else potentials.get_content(),
        )
    )
