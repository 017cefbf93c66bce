"""What every runner shares: read ``settings.json``, run, write ``result.json``. Only Python's standard library here."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from aiida_mlipal.runners.gpu_lock import hold_gpus

__all__ = (
    'RESULT',
    'SETTINGS',
    'SettingsRefused',
    'StartRefused',
    'describe_device',
    'error_kind',
    'main',
    'software',
    'to_json',
    'write_json',
)

SETTINGS: Final = 'settings.json'
RESULT: Final = 'result.json'

#: What PyTorch, on the GPU and on the CPU, CUDA's libraries and the C++ below say when memory has run out.
_NO_MEMORY: Final = (
    'out of memory', 'out_of_memory', 'outofmemory', 'allocate memory', 'not enough memory', 'alloc_failed', 'bad_alloc'
)  # fmt: skip

#: Import name -> distribution; those that were imported by the end of a run are recorded with their versions.
_DISTRIBUTIONS: Final = {
    'ase': 'ase',
    'e3nn': 'e3nn',
    'mace': 'mace-torch',
    'numpy': 'numpy',
    'scipy': 'scipy',
    'tblite': 'tblite',
    'torch': 'torch',
}


class SettingsRefused(ValueError):  # noqa: N818 - the settings are at fault, nothing broke
    """A program on the compute node does not take the settings of a job: an unknown name, another version."""


class StartRefused(ValueError):  # noqa: N818 - nothing broke
    """A training cannot start from an earlier model, which is of another kind."""


def to_json(value: Any) -> Any:
    """Return ``value`` with NumPy types as Python's and non-finite numbers as ``None``, as databases want them."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if hasattr(value, 'tolist'):  # NumPy arrays and scalars
        return to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` in one go: whoever reads ``path`` finds all of it or nothing."""
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(to_json(values), indent=1, sort_keys=True, allow_nan=False), encoding='utf-8')
    os.replace(partial, path)


def software() -> dict[str, str]:
    """Return the versions of Python and of the packages that this process has imported."""
    versions = {'python': platform.python_version()}
    for module, distribution in _DISTRIBUTIONS.items():
        if module in sys.modules:
            try:
                versions[distribution] = version(distribution)
            except PackageNotFoundError:
                versions[distribution] = str(getattr(sys.modules[module], '__version__', 'unknown'))
    return versions


def describe_device(device: str) -> str:
    """Return ``device`` with the name of the graphics card, if it is one."""
    torch = sys.modules.get('torch')
    if device.startswith('cuda') and torch is not None and torch.cuda.is_available():
        return f'{device} ({torch.cuda.get_device_name(device)})'
    return device


def error_kind(exception: BaseException) -> str:
    """Return the machine-readable kind of an error: what a workflow decides upon."""
    text = f'{type(exception).__name__} {exception}'.lower()
    if isinstance(exception, MemoryError) or any(words in text for words in _NO_MEMORY):
        return 'out_of_memory'
    if isinstance(exception, FloatingPointError):
        return 'non_finite'
    if isinstance(exception, ModuleNotFoundError):
        return 'missing_package'
    if isinstance(exception, SettingsRefused):
        return 'settings_refused'
    if isinstance(exception, StartRefused):
        return 'start_refused'
    return 'exception'


def main(run: Callable[[dict[str, Any], Path], dict[str, Any]]) -> None:
    """Call ``run(settings, folder)`` in the current folder and leave ``result.json``; exit with 1 if it raised.

    ``result.json`` holds ``status`` (``ok`` or ``error``), ``software`` (versions), ``device``, ``wall_s``, where the
    job asked for a GPU of its own ``gpu_wait_s`` (before ``wall_s`` begins), and what ``run`` returned; in the case of
    an error ``error``, ``kind`` (see :func:`error_kind`) and ``traceback``.
    """
    folder = Path.cwd()
    start = time.monotonic()
    device, waited = 'cpu', 0.0
    outcome: dict[str, Any]
    try:
        waited = hold_gpus()
        start = time.monotonic()
        settings = json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
        device = str(settings.get('device', 'cpu'))
        outcome = {'status': 'ok', **run(settings, folder)}
    except Exception as exception:
        outcome = {
            'status': 'error',
            'error': f'{type(exception).__name__}: {exception}',
            'kind': error_kind(exception),
            'traceback': traceback.format_exc(),
        }
        traceback.print_exc()
    frame = {'software': software(), 'device': describe_device(device), 'wall_s': round(time.monotonic() - start, 3)}
    wait = {'gpu_wait_s': round(waited, 3)} if waited else {}
    write_json(folder / RESULT, {**frame, **wait, **outcome})
    if outcome['status'] != 'ok':
        sys.exit(1)
