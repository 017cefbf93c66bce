"""What the parsers of jobs without much else to say put into their ``results``."""

from __future__ import annotations

from typing import Any

from aiida.orm import Dict

__all__ = ('statistics',)


def statistics(result: dict[str, Any]) -> Dict:
    """Return what the runner found, with versions, device and wall time, as an unstored node."""
    return Dict({**result['results'], **{key: result[key] for key in ('software', 'device', 'wall_s')}})
