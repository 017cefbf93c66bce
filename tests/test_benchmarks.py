"""Benchmarks follow the code that they measure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / 'benchmarks'


@pytest.mark.parametrize('script', sorted(path.name for path in BENCHMARKS.glob('[a-z]*.py')))
def test_says_how_it_is_called(script):
    """Also a test of what it imports."""
    done = subprocess.run(
        [sys.executable, script, '--help'],
        cwd=BENCHMARKS,
        env={**os.environ, 'PYTHONPATH': str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '--' in done.stdout
