"""Generate seeds in a job, for recipes that are too heavy for a daemon worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.generate_settings import GenerateSettings
from aiida_mlipal.science.seeds import generate
from aiida_mlipal.science.settings import from_dict

__all__ = ('run',)


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read ``parents.npz`` and ``seed.json`` (an integer), write ``configurations.npz``."""
    plan = from_dict(GenerateSettings, settings)
    seed = int(json.loads((folder / 'seed.json').read_text(encoding='utf-8')))
    frames = generate(Configurations.load(folder / 'parents.npz'), plan.recipe, seed)
    frames.save(folder / 'configurations.npz')
    return {'results': {'n_frames': len(frames)}}
