"""What a pw.x label means: functional, pseudopotentials, cutoffs, k-points, smearing, spin, Hubbard U, dispersion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.science.level_of_theory import canonical

__all__ = ('describe_pw_level_of_theory', 'functional_of', 'pw_level_of_theory')

#: SYSTEM keywords that steer the solution but do not change what is solved.
_NUMERICAL: Final = ('nbnd', 'nosym', 'noinv', 'starting_magnetization', 'ibrav')
#: What pw.x assumes where a keyword is left out: saying so makes no other level of theory.
_DEFAULTS: Final[dict[str, Any]] = {
    'nspin': 1,
    'noncolin': False,
    'lspinorb': False,
    'lda_plus_u': False,
    'vdw_corr': 'none',
    'assume_isolated': 'none',
    'tot_charge': 0,
}
#: CONTROL keywords that put a field or a charged plate into the cell.
_FIELDS: Final = ('tefield', 'dipfield', 'lelfield', 'gate')

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


def pw_level_of_theory(
    parameters: Mapping[str, Any],
    kpoints_distance: float,
    kpoints_offset: list[float],
    pseudos: Mapping[str, orm.Data],
    hubbard: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the readable level of theory of calculations with these inputs.

    ``nspin``, ``tot_magnetization`` and ``tot_charge`` of ``parameters`` belong to it, because all frames share them.
    What a frame says of itself (charge, multiplicity, initial moments) does not: that is which state is meant.

    :raises ValueError: if pseudopotentials and ``input_dft`` name more than one functional.
    """
    functionals = {element: functional_of(pseudo) for element, pseudo in sorted(pseudos.items())}
    system = {
        key: value
        for key, value in parameters.get('SYSTEM', {}).items()
        if key not in _NUMERICAL and not (key in _DEFAULTS and value == _DEFAULTS[key])
    }
    named = str(system.pop('input_dft', '')).upper()
    found = sorted(set(functionals.values()) | ({named} if named else set()))
    if len(found) != 1:
        raise ValueError(
            f'functionals are mixed: the pseudopotentials name {functionals}'
            + (f' and `input_dft` is {named}' if named else '')
            + '. Choose a pseudopotential family made for one functional.'
        )
    fields = [name for name in _FIELDS if parameters.get('CONTROL', {}).get(name)]
    return dict(
        canonical(
            {
                'code': 'quantumespresso.pw',
                'functional': found[0],
                'pseudopotentials': {element: pseudo.md5 for element, pseudo in pseudos.items()},
                'system': system,
                'k_points': {'distance': kpoints_distance, 'offset': kpoints_offset, 'mesh_of': 'reference cell'},
                **({'fields': fields} if fields else {}),
                **({'hubbard': dict(hubbard)} if hubbard else {}),
            }
        )
    )


@calcfunction
def describe_pw_level_of_theory(
    parameters: orm.Dict,
    kpoints_distance: orm.Float,
    kpoints_offset: orm.List,
    hubbard: orm.Dict | None = None,
    **pseudos: orm.Data,
) -> orm.Dict:
    """Return the level of theory of pw.x calculations with these inputs."""
    return orm.Dict(
        pw_level_of_theory(
            parameters.get_dict(),
            kpoints_distance.value,
            kpoints_offset.get_list(),
            pseudos,
            hubbard.get_dict() if hubbard is not None else None,
        )
    )
