"""Which ASE calculator labels frames; plain Python, because the runner reads it on the compute node too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiida_mlipal.science.settings import check_integer, unknown_name

__all__ = ('CALCULATORS', 'LabelSettings')

#: Short name -> where the class is.
CALCULATORS: Final = {
    'emt': 'ase.calculators.emt.EMT',
    'lj': 'ase.calculators.lj.LennardJones',
    'tblite': 'tblite.ase.TBLite',
}


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Settings of ``mlipal.ase.label``."""

    calculator: str  #: a name of :data:`CALCULATORS`, or the dotted path of a class: ``package.module.Class``
    parameters: Mapping[str, Any] = field(default_factory=dict)  #: keyword arguments of the class
    threads: int = 1

    def __post_init__(self) -> None:
        check_integer('threads', self.threads)
        if self.calculator not in CALCULATORS and not re.fullmatch(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)+', self.calculator):
            message = unknown_name('calculator', self.calculator, CALCULATORS)
            raise ValueError(f'{message} Or the dotted path of a class, such as ase.calculators.emt.EMT.')
        if not isinstance(self.parameters, Mapping):
            raise ValueError(f'`parameters` must be a mapping of keyword arguments, got {self.parameters!r}.')

    @property
    def path(self) -> str:
        """Dotted path of the class."""
        return CALCULATORS.get(self.calculator, self.calculator)
