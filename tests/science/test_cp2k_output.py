"""Energy, forces and stress from CP2K's tables in the styles of three generations, against numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units

from aiida_mlipal.science.cp2k_output import read_evaluations, read_single_point

#: Two atoms, forces 0.01, -0.02, 0.03 Ha/bohr and the opposite.
OLD_FORCES = """
 ATOMIC FORCES in [a.u.]

 # Atom   Kind   Element          X              Y              Z
      1      1      Na          0.01000000    -0.02000000     0.03000000
      2      2      Cl         -0.01000000     0.02000000    -0.03000000
 SUM OF ATOMIC FORCES           0.00000000     0.00000000     0.00000000     0.00000000
"""
NEW_FORCES = """
 FORCES| Atomic forces [hartree/bohr]
 FORCES|   Atom     x               y               z               |f|
 FORCES|      1  1.00000000E-02 -2.00000000E-02  3.00000000E-02  3.74165739E-02
 FORCES|      2 -1.00000000E-02  2.00000000E-02 -3.00000000E-02  3.74165739E-02
 FORCES| Sum      0.00000000E+00  0.00000000E+00  0.00000000E+00  0.00000000E+00
 FORCES| Total atomic force  5.29150262E-02
"""
#: 1, 2, 3 GPa on the diagonal, 0.4 (yz), 0.5 (xz), 0.6 (xy); positive: the cell is compressed.
OLDEST_STRESS = """
 STRESS TENSOR [GPa]

            X               Y               Z
  X       1.00000000      0.60000000      0.50000000
  Y       0.60000000      2.00000000      0.40000000
  Z       0.50000000      0.40000000      3.00000000

  1/3 Trace(stress tensor):  2.00000000E+00
"""
OLD_STRESS = """
 STRESS| Analytical stress tensor [GPa]
 STRESS|                        x                   y                   z
 STRESS|      x        1.00000000000E+00   6.00000000000E-01   5.00000000000E-01
 STRESS|      y        6.00000000000E-01   2.00000000000E+00   4.00000000000E-01
 STRESS|      z        5.00000000000E-01   4.00000000000E-01   3.00000000000E+00
 STRESS| 1/3 Trace                                             2.00000000000E+00

 STRESS| Eigenvectors and eigenvalues of the analytical stress tensor [GPa]
 STRESS|                        1                   2                   3
 STRESS| Eigenvalues    6.00000000000E-01   1.80000000000E+00   3.60000000000E+00
 STRESS|      x            0.900000000000      0.300000000000      0.300000000000
 STRESS|      y            0.100000000000      0.900000000000      0.400000000000
 STRESS|      z            0.400000000000      0.300000000000      0.900000000000
"""
NEW_STRESS = (
    OLD_STRESS.replace('[GPa]', '[bar]')
    .replace('1.00000000000E+00', '1.00000000000E+04')
    .replace('2.00000000000E+00', '2.00000000000E+04')
    .replace('3.00000000000E+00', '3.00000000000E+04')
    .replace('00000E-01', '00000E+03')
)
ENERGIES = {
    'oldest': ' ENERGY| Total FORCE_EVAL ( QS ) energy (a.u.):              -17.250000000000000\n',
    'old': ' ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:              -17.250000000000000\n',
    'new': ' ENERGY| Total FORCE_EVAL ( QS ) energy [hartree]            -17.250000000000000\n',
}
STYLES = {
    'oldest': ENERGIES['oldest'] + OLD_FORCES + OLDEST_STRESS,
    'old': ENERGIES['old'] + OLD_FORCES + OLD_STRESS,
    'new': ENERGIES['new'] + NEW_FORCES + NEW_STRESS,
}
MULLIKEN = """
                     Mulliken Population Analysis

 #  Atom  Element  Kind  Atomic population (alpha,beta) Net charge  Spin moment
       1     O        1         4.000000     2.000000     0.000000     2.000000
 # Total charge and spin        4.000000     2.000000     0.000000     2.000000
"""


@pytest.mark.parametrize('style', STYLES)
def test_all_styles_say_the_same(style):
    said = read_single_point(STYLES[style])
    assert said.energy == pytest.approx(-17.25 * units.Hartree, rel=1e-12)
    force = np.array([0.01, -0.02, 0.03]) * units.Hartree / units.Bohr
    np.testing.assert_allclose(said.forces, [force, -force], rtol=1e-12)
    np.testing.assert_allclose(said.stress, -np.array([1.0, 2.0, 3.0, 0.4, 0.5, 0.6]) * units.GPa, rtol=1e-12)
    assert said.converged
    assert said.magnetization is None


def test_the_last_of_several_tables_counts():
    twice = STYLES['old'].replace('0.0100', '0.0900').replace('-17.25', '-16.00') + STYLES['old']
    said = read_single_point(twice)
    assert said.forces[0, 0] == pytest.approx(0.01 * units.Hartree / units.Bohr)
    assert said.energy == pytest.approx(-17.25 * units.Hartree)


def test_spin_of_the_cell():
    assert read_single_point(STYLES['old'] + MULLIKEN).magnetization == 2.0


def test_what_is_missing_or_no_number_is_none():
    said = read_single_point(' SCF run NOT converged\n')
    assert (said.energy, said.forces, said.stress, said.converged) == (None, None, None, False)
    starred = STYLES['old'].replace('-0.02000000     0.03000000', '**************** 0.03000000')
    assert read_single_point(starred).forces is None
    assert read_single_point(STYLES['new'].replace('1.00000000000E+04', 'NaN')).stress is None
    cut = STYLES['old'][: STYLES['old'].index(' STRESS|      z')]
    assert read_single_point(cut).stress is None


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match=r'printed the stress in `kbar`, expected one of .*gpa'):
        read_single_point(NEW_STRESS.replace('[bar]', '[kbar]'))


def test_evaluations_in_order():
    """SCF and spin before an energy are of that energy, forces and stress behind it too; a trial may have no forces."""
    energy = ' ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:   {}\n'
    spin = ' # Total charge and spin    1.0  1.0  0.0  {}\n'
    text = (
        spin.format(1.0) + energy.format(-1.5) + OLD_FORCES + ' *** WARNING : SCF run NOT converged ***\n'
        + spin.format(2.0) + energy.format(-2.5) + spin.format(3.0) + energy.format(-3.5) + NEW_FORCES + OLD_STRESS
    )  # fmt: skip
    first, trial, last = read_evaluations(text)
    np.testing.assert_allclose([item.energy / units.Ha for item in (first, trial, last)], [-1.5, -2.5, -3.5], rtol=1e-9)
    assert [item.magnetization for item in (first, trial, last)] == [1.0, 2.0, 3.0]
    assert [item.converged for item in (first, trial, last)] == [True, False, True]
    assert trial.forces is None
    np.testing.assert_allclose(first.forces, last.forces)
    assert first.stress is None
    assert last.stress is not None
    assert read_evaluations('') == []
