from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiida_mlipal.science.eos import birch_murnaghan, fit
from aiida_mlipal.science.units import GPA


def test_copper_against_ase():
    volumes, energies = [], []
    for strain in np.linspace(-0.04, 0.04, 9):
        atoms = bulk('Cu')
        atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
        atoms.calc = EMT()
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy())
    result = fit(volumes, energies)
    reference = EquationOfState(volumes, energies, 'birchmurnaghan')
    v0, e0, b0 = reference.fit()
    assert result['v0'] == pytest.approx(v0, rel=1e-6)
    assert result['e0'] == pytest.approx(e0, abs=1e-6)
    assert result['b0_gpa'] == pytest.approx(b0 / GPA, rel=1e-4)
    assert result['b0_prime'] == pytest.approx(reference.eos_parameters[2], rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    v0=st.floats(5, 500), e0=st.floats(-1000, 1000), b0=st.floats(1, 400), b0_prime=st.floats(3, 6),
    width=st.floats(0.06, 0.2),
)  # fmt: skip
@example(v0=5.0, e0=0.0, b0=1.0, b0_prime=4.0, width=0.125)  # the cubic term is next to nothing
def test_recovers_exact_curves(v0, e0, b0, b0_prime, width):
    volumes = np.linspace(1 - width, 1 + 0.7 * width, 7) * v0
    result = fit(volumes, birch_murnaghan(volumes, v0, e0, b0 * GPA, b0_prime))
    assert result['v0'] == pytest.approx(v0, rel=1e-5)
    assert result['b0_gpa'] == pytest.approx(b0, rel=1e-3)
    assert result['b0_prime'] == pytest.approx(b0_prime, rel=2e-2)
    assert result['rms_mev'] < 1e-3


def test_bulk_modulus_is_the_curvature():
    h = 1e-3
    pressure_slope = birch_murnaghan([20 - h, 20, 20 + h], 20, 0, 0.6, 4.5) @ [1, -2, 1] / h**2
    assert 20 * pressure_slope == pytest.approx(0.6, rel=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match='5 different volumes, got 4'):
        fit([1, 2, 3, 4], [1, 0, 1, 2])
    volumes = np.linspace(21, 25, 6)
    with pytest.raises(ValueError, match=r'no minimum between 21\.000 and 25\.000'):
        fit(volumes, birch_murnaghan(volumes, 20, 0, 0.6, 4))
    with pytest.raises(ValueError, match='one energy is needed per volume'):
        fit([1, 2, 3, 4, 5], [1, 2])
    with pytest.raises(ValueError, match='finite'):
        fit([1, 2, 3, 4, 5], [1, 2, np.nan, 4, 5])
