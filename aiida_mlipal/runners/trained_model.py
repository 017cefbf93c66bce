"""What is to be known of a model file that MACE has trained: what kind of model it is, and its errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida_mlipal.runners.foundation import architecture
from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.training_settings import TrainingSettings

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ('errors', 'inspect_model')


def inspect_model(path: Path) -> dict[str, Any]:
    """Return what is to be known of a model file without unpickling it again: elements, cutoff, size, precision."""
    import torch
    from ase.data import chemical_symbols

    model = torch.load(path, map_location='cpu', weights_only=False)
    return {
        'elements': [chemical_symbols[int(number)] for number in model.atomic_numbers],
        'r_max': float(model.r_max),
        'dtype': str(next(model.parameters()).dtype).removeprefix('torch.'),
        'n_parameters': sum(parameter.numel() for parameter in model.parameters()),
        'architecture': architecture(model),
    }


def errors(path: Path, frames: Iterable[Atoms], settings: TrainingSettings, head: str = MAIN_HEAD) -> dict[str, float]:
    """Return the RMSE of a model file on labelled ``frames``: energy (eV per atom), forces (eV/Å), stress (eV/Å³)."""
    import numpy as np
    import torch
    from mace import data, tools

    model = torch.load(path, map_location=settings.device, weights_only=False)
    table = tools.AtomicNumberTable([int(number) for number in model.atomic_numbers])
    keys = data.KeySpecification(
        info_keys={'energy': 'REF_energy', 'stress': 'REF_stress'}, arrays_keys={'forces': 'REF_forces'}
    )
    graphs = (
        data.AtomicData.from_config(
            data.config_from_atoms(atoms, key_specification=keys, head_name=head),
            z_table=table,
            cutoff=float(model.r_max),
            heads=list(model.heads),
        )
        for atoms in frames
    )
    batch_size = settings.valid_batch_size or settings.batch_size
    squares: dict[str, list[Any]] = {'energy_rmse_per_atom': [], 'force_rmse': [], 'stress_rmse': []}
    while members := list(itertools.islice(graphs, batch_size)):  # never all graphs at a time
        batch = tools.torch_geometric.Batch.from_data_list(members).to(settings.device)
        result = model(batch.to_dict(), compute_stress=True)
        n_atoms = batch.ptr[1:] - batch.ptr[:-1]
        has_stress = batch.stress_weight > 0
        for name, difference in (
            ('energy_rmse_per_atom', (result['energy'] - batch.energy) / n_atoms),
            ('force_rmse', result['forces'] - batch.forces),
            ('stress_rmse', (result['stress'] - batch.stress)[has_stress]),
        ):
            squares[name].append(difference.detach().double().square().flatten().cpu().numpy())
    joined = {name: np.concatenate(values) for name, values in squares.items()}
    return {name: float(np.sqrt(values.mean())) if values.size else math.nan for name, values in joined.items()}
