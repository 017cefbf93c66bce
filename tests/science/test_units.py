from __future__ import annotations

import pytest
from scipy import constants

from aiida_mlipal.science import units


def test_against_scipy():
    """scipy carries another CODATA release than ASE (2014): they agree to 1e-6."""
    ev = constants.electron_volt
    assert constants.value('Rydberg constant times hc in eV') == pytest.approx(units.RY_TO_EV, rel=1e-6)
    assert pytest.approx(2 * units.RY_TO_EV, rel=1e-12) == units.HARTREE_TO_EV
    assert constants.value('Bohr radius') * 1e10 == pytest.approx(units.BOHR, rel=1e-6)
    assert 1e9 / ev * 1e-30 == pytest.approx(units.GPA, rel=1e-6)
    assert constants.k / ev == pytest.approx(units.KB, rel=1e-5)
