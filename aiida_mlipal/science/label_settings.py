"""Which ASE calculator labels frames; plain Python, because the runner reads it on the compute node too."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiida_mlipal.science.settings import check_integer, unknown_name

__all__ = ('CALCULATORS', 'LabelSettings', 'calculator_class')

#: Short name -> where the class is.
CALCULATORS: Final = {
    'emt': 'ase.calculators.emt.EMT',
    'lj': 'ase.calculators.lj.LennardJones',
    'mace': 'mace.calculators.MACECalculator',
    'tblite': 'tblite.ase.TBLite',
}
#: What frames say themselves, or the campaign: parameter of :data:`CALCULATORS` -> what to do instead.
_RESERVED: Final = {
    ('tblite', 'charge'): 'the charge belongs to the frames; set their column `charge`',
    ('tblite', 'multiplicity'): 'the multiplicity belongs to the frames; set their column `multiplicity`',
    ('mace', 'models'): 'give the model as the input `model`',
}
#: Parameters of every calculator that runs a program.
_COMMON: Final = ('command', 'directory', 'label')


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Settings of ``mlipal.ase.label``."""

    calculator: str  #: a name of :data:`CALCULATORS`, or the dotted path of a class: ``package.module.Class``
    parameters: Mapping[str, Any] = field(default_factory=dict)  #: keyword arguments of the class
    threads: int = 1

    def __post_init__(self) -> None:
        check_integer('threads', self.threads)
        if not isinstance(self.calculator, str) or (
            self.calculator not in CALCULATORS and not re.fullmatch(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)+', self.calculator)
        ):
            message = unknown_name('calculator', self.calculator, CALCULATORS)
            raise ValueError(f'{message} Or the dotted path of a class, such as ase.calculators.emt.EMT.')
        if not isinstance(self.parameters, Mapping):
            raise ValueError(f'`parameters` must be a mapping of keyword arguments, got {self.parameters!r}.')
        for key in self.parameters:
            if (self.name, key) in _RESERVED:
                raise ValueError(f'`parameters.{key}` of `{self.name}`: {_RESERVED[self.name, key]}.')

    @property
    def path(self) -> str:
        """Dotted path of the class."""
        return CALCULATORS.get(self.calculator, self.calculator)

    @property
    def name(self) -> str:
        """The short name where there is one, however the calculator was given; else the dotted path."""
        return {path: name for name, path in CALCULATORS.items()}.get(self.calculator, self.calculator)


def calculator_class(settings: LabelSettings) -> Any:
    """Return the class of the calculator.

    :raises ModuleNotFoundError: if its package is not installed here.
    :raises ValueError: if the module has no such class, or the class does not know a parameter (ASE's own classes
        would take a misspelt one without a word).
    """
    module, _, name = settings.path.rpartition('.')
    imported = importlib.import_module(module)
    if not hasattr(imported, name):
        raise ValueError(f'`{module}` has no class `{name}` (calculator `{settings.calculator}`).')
    cls = getattr(imported, name)
    known = getattr(cls, 'default_parameters', {})
    named = [key for key, value in inspect.signature(cls).parameters.items() if value.kind is not value.VAR_KEYWORD]
    valid = {*known, *named, *_COMMON}
    for key in settings.parameters if known else ():
        if key not in valid:
            raise ValueError(unknown_name(f'parameter of `{settings.calculator}`', key, valid))
    return cls
