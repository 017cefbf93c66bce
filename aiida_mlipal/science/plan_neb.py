"""Plan ``neb``: the frames between two end points, the saddle first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from scipy.optimize import linear_sum_assignment

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_plans import Plan
from aiida_mlipal.science.settings import check_integer, check_number

__all__ = ('NebPlan', 'check_path')


@dataclass(frozen=True, kw_only=True)
class NebPlan(Plan):
    """Climbing-image nudged elastic bands between relaxed end points; every image is a candidate."""

    KIND: ClassVar[str] = 'neb'

    #: pairs of rows of the starts, counted from 0; in a campaign, pairs of its structures. Both of a pair have the same
    #: cell, and the same atoms in the same order
    ends: Sequence[Sequence[int]] = ((0, 1),)
    n_images: int = 5  #: images between the end points
    max_steps: int = 200  #: of the optimiser, at most
    converged_force: float = 0.05  #: eV/Å; a band with no larger force across its path is done

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer('n_images', self.n_images)
        check_integer('max_steps', self.max_steps)
        check_number('converged_force', self.converged_force, above=0)
        pairs = self.ends if isinstance(self.ends, (list, tuple)) else ()
        if not pairs or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise ValueError(f'`ends` must be a list of pairs of rows, as [[0, 1]], got {self.ends!r}.')
        for first, last in pairs:
            check_integer('ends', first, at_least=0)
            check_integer('ends', last, at_least=0)
            if first == last:
                raise ValueError(f'`ends`: a band from row {first} to itself has no images: give another row.')

    @property
    def n_replicas(self) -> int:
        """Number of bands."""
        return len(self.ends)

    def check_starts(self, starts: Configurations) -> None:
        """Refuse end points that are not there or do not belong together.

        :raises ValueError: naming the rows.
        """
        for first, last in self.ends:
            if max(first, last) >= len(starts):
                raise ValueError(
                    f'`{self.label}`: `ends` names row {max(first, last)}, but there are only {len(starts)} starts, '
                    'counted from 0.'
                )
            problem = check_path(starts.atoms(first), starts.atoms(last))
            if problem:
                raise ValueError(f'`{self.label}`: no path from start {first} to start {last}: {problem}')


def check_path(initial: Atoms, final: Atoms) -> str:
    """Return why two frames cannot be the ends of a path, or an empty string.

    The order of the atoms is the same if no other pairing of equal elements leaves more atoms where they are (a move of
    1 Å or more counts as one, a shorter one as its part).
    """
    if len(initial) != len(final) or (initial.numbers != final.numbers).any():
        return (
            f'the first has the atoms {initial.get_chemical_formula(mode="reduce")}, the second '
            f'{final.get_chemical_formula(mode="reduce")}; give the same atoms in the same order.'
        )
    if (initial.pbc != final.pbc).any() or not np.allclose(initial.cell.array, final.cell.array, atol=1e-8):
        return 'their cells differ; give both the same cell.'
    separations = final.positions[None] - initial.positions[:, None]
    _, distances = find_mic(separations.reshape(-1, 3), initial.cell, initial.pbc)
    moved = np.minimum(distances.reshape(len(initial), -1), 1.0)
    moved[initial.numbers[:, None] != final.numbers[None]] = len(initial) + 1.0
    rows, columns = linear_sum_assignment(moved)
    if np.trace(moved) > moved[rows, columns].sum() + 0.5:
        wrong = [f'{row} (now {column})' for row, column in zip(rows, columns, strict=True) if row != column]
        return (
            f'their atoms are in a different order: sort the second so that atom {", ".join(wrong[:3])}'
            f'{" ..." if len(wrong) > 3 else ""} of the first is the same atom in both.'
        )
    return ''
