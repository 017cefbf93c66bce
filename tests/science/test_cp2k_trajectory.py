"""Files of a trajectory, as CP2K 2023.1 writes them, whole and cut off."""

from __future__ import annotations

import numpy as np

from aiida_mlipal.science.cp2k_trajectory import read_cells, read_restart, read_xyz

STEP = """       2
 i =        {number}, time =        0.500, E =        -5.7673880810
  O         0.0006606074        0.0005493496        0.1010626800
  H         0.8214936645        0.5766926751        {last}
"""
CELL = """#   Step   Time [fs]       Ax [Angstrom]       Ay [Angstrom]  ...  Volume [Angstrom^3]
       1  0.500        7.0990876618        0.0000000000        0.0000000000        0.1982184319        7.2991870698\
        0.0000000000        0.0000000000        0.0002418575        7.6001142290           393.8194424744
"""
RESTART = """ &MOTION
   &PRINT
     &CELL  SILENT
     &END CELL
   &END PRINT
 &END MOTION
 &FORCE_EVAL
   &SUBSYS
     &CELL
       A     7.0996049164286319E+00    0.0000000000000000E+00    0.0000000000000000E+00
       B     1.9807202999557130E-01    7.2985552860122418E+00    0.0000000000000000E+00
       C     2.0777684760201368E-04    2.8381262640017961E-05    7.6003870741526889E+00
       MULTIPLE_UNIT_CELL  1 1 1
     &END CELL
     &COORD
O    2.2019179968255542E-02    1.9553915932176782E-02    9.7439574005775104E-02
     &END COORD
"""


def test_steps_of_an_xyz_file():
    good = STEP.format(number=1, last='0.0255957781')
    (step,) = read_xyz(good)
    assert (step.number, step.energy) == (1, -5.767388081)
    np.testing.assert_array_equal(step.values[1], [0.8214936645, 0.5766926751, 0.0255957781])
    cut, stars = good[: good.index('  H')], STEP.format(number=2, last='********')
    assert [item.number for item in read_xyz(good + stars + STEP.format(number=3, last='1.0') + cut)] == [1, 3]
    assert read_xyz('') == []


def test_cells():
    cells = read_cells(CELL)
    assert list(cells) == [1]
    np.testing.assert_array_equal(cells[1][2], [0.0, 0.0002418575, 7.600114229])
    volume = np.linalg.det(cells[1])
    assert abs(volume - 393.8194424744) < 1e-6


def test_restart():
    cell, positions = read_restart(RESTART)
    assert cell[1, 0] == 0.1980720299955713
    assert positions.shape == (1, 3)
    assert read_restart(RESTART.replace('A     7', 'ABC     7')) is None
    assert read_restart('') is None
