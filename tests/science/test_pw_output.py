"""What pw.x prints behind the forces."""

from __future__ import annotations

import pytest

from aiida_mlipal.science.pw_output import scf_force_errors
from aiida_mlipal.science.units import BOHR, RY_TO_EV


def test_one_value_per_ionic_step():
    step = '     Total force =     0.018574     Total SCF correction =     {}\n'
    errors = scf_force_errors(
        step.format('0.000250') + 'SCF correction compared to forces is large\n' + step.format('0.5')
    )
    assert errors == pytest.approx([2.5e-4 * RY_TO_EV / BOHR, 0.5 * RY_TO_EV / BOHR])
    assert scf_force_errors('convergence NOT achieved').size == 0
