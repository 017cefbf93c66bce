"""Parts of a benchmark one after the other: one that breaks says so and does not end the others."""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping

import torch
from _scratch_profile import machine


def run_parts(parts: Mapping[str, Callable[[], None]]) -> None:
    """Run all parts, then say on what machine it was; exit with an error if one broke."""
    warnings.simplefilter('ignore')
    failed = []
    for name, part in parts.items():
        begin = time.monotonic()
        try:
            part()
        except Exception:
            failed.append(name)
            print(f'FAILED {name}\n{traceback.format_exc()}', flush=True)
        print(f'{name}: {time.monotonic() - begin:.0f} s', flush=True)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    print(f'{machine()}; {card}, torch {torch.__version__}')
    if failed:
        sys.exit(f'failed: {failed}')
