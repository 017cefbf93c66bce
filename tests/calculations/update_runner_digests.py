"""Write ``runner_digests.json``: which program each CalcJob's ``CACHE_VERSION`` stands for.

Run it after a change of a runner, or of a module it imports. If the change can alter results, raise the CalcJob's
``CACHE_VERSION`` first, so that AiiDA does not answer from the cache what the old program computed.
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from aiida_mlipal.calculations.bundle import digest
from aiida_mlipal.calculations.runner import RunnerCalculation

PATH = Path(__file__).with_name('runner_digests.json')


def current() -> dict[str, dict[str, Any]]:
    """Return cache version and digest of every runner that an entry point of this package leads to."""
    classes = [entry.load() for entry in entry_points(group='aiida.calculations') if entry.name.startswith('mlipal.')]
    return {
        cls._RUNNER: {'cache_version': cls.CACHE_VERSION, 'digest': digest(cls._RUNNER)}
        for cls in classes
        if issubclass(cls, RunnerCalculation)
    }


if __name__ == '__main__':
    PATH.write_text(json.dumps(current(), indent=2, sort_keys=True) + '\n', encoding='utf-8')
