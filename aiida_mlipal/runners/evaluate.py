"""Evaluate a committee on given frames."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from aiida_mlipal.runners.committee import evaluate, load_models, member_files
from aiida_mlipal.runners.cueq import accelerate_models
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.inference_settings import InferenceSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('run',)


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read ``configurations.npz`` and the member models, write ``evaluation.npz``."""
    import torch

    plan = from_dict(InferenceSettings, settings)
    torch.set_num_threads(plan.threads)
    models = load_models(member_files(folder), device=plan.device, dtype=plan.dtype)
    frames = Configurations.load(folder / 'configurations.npz')
    models, cueq = accelerate_models(models, frames, plan.enable_cueq)
    start = time.perf_counter()
    evaluate(frames, models, batch_atoms=plan.batch_atoms).save(folder / 'evaluation.npz')
    return {
        'results': {
            'n_frames': len(frames),
            'n_members': len(models),
            'evaluate_s': time.perf_counter() - start,
            **cueq,
        }
    }
