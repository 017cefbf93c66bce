"""What pw.x prints and the parser of aiida-quantumespresso leaves out."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.units import BOHR, RY_TO_EV

__all__ = ('scf_force_errors',)


def scf_force_errors(stdout: str) -> NDArray[np.float64]:
    """Return the correction of the forces for an SCF that is not exact, in eV/Å, for each ionic step.

    pw.x prints ``Total SCF correction``, the norm over all atoms in Ry/bohr, behind the forces.
    """
    found = re.findall(r'Total SCF correction\s*=\s*([\d.]+)', stdout)
    return np.array(found, dtype=float) * (RY_TO_EV / BOHR)
