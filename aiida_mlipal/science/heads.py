"""Heads: readouts of one model, each for a level of theory of its own.

Levels of theory must not be mixed in one set of labels. A model may learn from several all the same: its heads share
everything but the last layer, the zero of the energy and its scale. One of them is the main head: it alone explores, is
judged and validated; the others only lend it what their (cheaper, older) labels know of the atomic environments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ('MAIN_HEAD', 'check_head_names', 'main_head')

#: MACE's own name for the only head of a model. With this name, and in the last place, its ASE calculator and its
#: interface to LAMMPS take the main head of several, too, and its training judges by it which epoch is the best.
MAIN_HEAD: Final = 'Default'
#: MACE sets ``pt_head`` apart, for data of a foundation model.
_RESERVED: Final = (MAIN_HEAD.lower(), 'pt_head')


def check_head_names(names: Iterable[str]) -> None:
    """Refuse names that cannot be a head besides the main one.

    :raises ValueError: for a name that is reserved, no identifier, or has a double underscore (AiiDA's separator).
    """
    for name in names:
        if name.lower() in _RESERVED or not (name.isascii() and name.isidentifier()) or '__' in name:
            raise ValueError(
                f'`{name}` cannot be the name of a head: expected letters, digits and single underscores, not '
                f'{" or ".join(f"`{word}`" for word in _RESERVED)}; for example `pbe` or `cheap`.'
            )


def main_head(heads: Sequence[str]) -> int:
    """Return the index of the head that answers for a model.

    :raises ValueError: if there are several and none is the main one.
    """
    if len(heads) == 1:
        return 0
    if MAIN_HEAD not in heads:
        raise ValueError(
            f'the model has the heads {", ".join(heads)} and none is called `{MAIN_HEAD}`, so nobody knows which one '
            'to ask: cut one out with `mace_select_head --head_name NAME FILE.model`.'
        )
    return list(heads).index(MAIN_HEAD)
