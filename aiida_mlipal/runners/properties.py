"""Properties of a model that can be held against the teacher: the equation of state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from aiida_mlipal.runners.committee import evaluate, load_models, member_files
from aiida_mlipal.runners.cueq import accelerate_models
from aiida_mlipal.science import eos
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.inference_settings import PropertiesSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('equations_of_state', 'run')


def equations_of_state(frames: Configurations, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return one entry per parent: the Birch-Murnaghan fit of the committee's mean energies of its strained cells.

    Each holds ``formula``, ``n_atoms``, ``frame_ids``, ``volumes`` (Å³), ``energies`` (eV) and the fit of
    :func:`aiida_mlipal.science.eos.fit`; ``a0`` is the length of the first cell vector (Å) at the equilibrium volume,
    the reference cell scaled isotropically. Where the fit fails there is ``problem`` instead.
    """
    result: dict[str, dict[str, Any]] = {}
    for parent in sorted(set(frames.parent.tolist())):
        rows = np.flatnonzero(frames.parent == parent)
        volumes = np.abs(np.linalg.det(frames.cell[rows]))
        first = frames.atoms(int(rows[0]))
        entry: dict[str, Any] = {
            'formula': Atoms(first.numbers).get_chemical_formula(),
            'n_atoms': len(first),
            'frame_ids': frames.frame_id[rows].tolist(),
            'volumes': volumes.tolist(),
            'energies': evaluation.energy[rows].tolist(),
        }
        reference = frames.reference_cell[rows[0]]
        try:
            entry |= eos.fit(volumes, evaluation.energy[rows])
        except ValueError as exception:
            entry['problem'] = str(exception)
        else:
            scale = (entry['v0'] / abs(np.linalg.det(reference))) ** (1 / 3)
            entry['a0'] = float(scale * np.linalg.norm(reference[0]))
        result[parent] = entry
    return result


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read ``configurations.npz`` and the member models; the fits are in the result."""
    import torch

    plan = from_dict(PropertiesSettings, settings)
    torch.set_num_threads(plan.threads)
    models = load_models(member_files(folder), device=plan.device, dtype=plan.dtype)
    frames = Configurations.load(folder / 'configurations.npz')
    models, cueq = accelerate_models(models, frames, plan.enable_cueq)
    evaluation = evaluate(frames, models, batch_atoms=plan.batch_atoms)
    return {'results': {'eos': equations_of_state(frames, evaluation), **cueq}}
