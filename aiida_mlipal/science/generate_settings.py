"""What to generate; plain Python, because the runner reads it on the compute node too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiida_mlipal.science.seeds import validate_recipe

__all__ = ('GenerateSettings',)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """Settings of ``mlipal.generate``."""

    recipe: Sequence[Mapping[str, Any]]  #: see :mod:`aiida_mlipal.science.seeds`
    #: µB, by element or one list per structure; the parents carry them already when the recipe is applied
    initial_moments: Mapping[str, float] | Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        validate_recipe(self.recipe)
