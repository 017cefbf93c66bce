"""Calibration: from an uncertainty to an expected force error, to intervals around it, and to the trust window.

Committees rank errors well and are several times overconfident, so nothing is decided on their spread itself. What it
means in eV/Å is fitted on the calibration half of the random stream, which no model has been trained on.
"""

from __future__ import annotations

from aiida_mlipal.science.calibration.fit import Calibration, Thresholds, calibrate

__all__ = ('Calibration', 'Thresholds', 'calibrate')
