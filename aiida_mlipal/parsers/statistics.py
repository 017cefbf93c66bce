"""What the parsers of jobs without much else to say put into their ``results``."""

from __future__ import annotations

from typing import Any

from aiida.orm import Dict

__all__ = ('statistics',)


def statistics(result: dict[str, Any]) -> Dict:
    """Return what the runner found, with versions, device, wall time and the wait for a GPU, as an unstored node."""
    common = {key: result[key] for key in ('software', 'device', 'wall_s', 'gpu_wait_s') if key in result}
    return Dict({**result['results'], **common})
