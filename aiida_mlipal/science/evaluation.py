"""What one model or committee says of many frames, row by row, keyed by ``frame_id``."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.columns import Columns, per_atom, per_frame

__all__ = ('Evaluation',)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Columns):
    """Predictions of a committee of K members (K = 1 for a single model) for F frames with A atoms in all.

    ``forces_std`` is the committee's spread per Cartesian component, sqrt(sum over x, y, z of the sample variance / 3),
    so that it compares with a force RMSE per component. For a single model it is the standard deviation that its
    last layer tells (see :mod:`aiida_mlipal.science.last_layer`), in the same sense, or NaN; as is ``energy_std``.
    ``stress_std`` is, like ``forces_std``, per component (of six), of committees alone.
    ``descriptors`` are per frame: the mean over atoms of the first member's invariant node features.
    """

    ABSENT = 'was not evaluated (there are {n_frames} others)'

    #: (F,) committee mean, eV
    energy: NDArray[np.float64] = field(metadata=per_frame('<f8'))
    #: (A, 3) committee mean, eV/Å
    forces: NDArray[np.float64] = field(metadata=per_atom('<f8', 3))
    #: (F, 6) committee mean, eV/Å³, Voigt, ASE's sign; NaN if not periodic
    stress: NDArray[np.float64] = field(metadata=per_frame('<f8', 6))
    #: (F,) eV
    energy_std: NDArray[np.float64] = field(metadata=per_frame('<f8'))
    #: (A,) eV/Å per component
    forces_std: NDArray[np.float64] = field(metadata=per_atom('<f8'))
    #: (F,) eV/Å³ per component; NaN for one model, and if not periodic
    stress_std: NDArray[np.float64] = field(metadata=per_frame('<f8', default=np.nan))
    #: (F, K) eV
    member_energy: NDArray[np.float64] = field(metadata=per_frame('<f8', None))
    #: (F, D)
    descriptors: NDArray[np.float64] = field(metadata=per_frame('<f8', None))

    @property
    def max_forces_std(self) -> NDArray[np.float64]:
        """Largest ``forces_std`` of each frame, eV/Å, shape ``(F,)``: the uncertainty that selection looks at."""
        if not len(self):
            return np.zeros(0)
        result: NDArray[np.float64] = np.maximum.reduceat(self.forces_std, self.offsets[:-1])
        return result
