"""Try the compute environment before a campaign does: imports, device, and one energy as dynamics asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk

from aiida_mlipal.runners.committee import graphs
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.systems import Systems
from aiida_mlipal.runners.trajectory import Replica
from aiida_mlipal.science.inference_settings import InferenceSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('run', 'small_model')


def small_model(device: str, dtype: str) -> Any:
    """Return a MACE model of silicon with random weights: it predicts nothing, but exercises everything."""
    import mace  # noqa: F401  (before e3nn)
    import torch
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, gate_dict, interaction_classes

    torch.manual_seed(0)
    interaction = interaction_classes['RealAgnosticResidualInteractionBlock']
    model = ScaleShiftMACE(
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
        r_max=4.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=1,
        hidden_irreps=o3.Irreps('4x0e'),
        MLP_irreps=o3.Irreps('4x0e'),
        atomic_energies=np.zeros(1),
        avg_num_neighbors=10.0,
        atomic_numbers=[14],
        correlation=2,
        gate=gate_dict['silu'],
    )
    return model.to(device=device, dtype=getattr(torch, dtype)).eval()


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return energy and largest force of a rattled silicon cell as dynamics gets them, and their deviation
    from MACE's own pipeline.

    :raises ValueError: if the device is missing.
    :raises RuntimeError: if the two disagree.
    """
    import torch

    plan = from_dict(InferenceSettings, settings)
    torch.set_num_threads(plan.threads)
    if plan.device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'device `{plan.device}` was asked for, but torch sees no CUDA device.')
    model = small_model(plan.device, plan.dtype)
    atoms = bulk('Si', cubic=True)
    atoms.rattle(0.1, seed=0)
    replica = Replica(index=0, numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)
    forces = MaceForces([model])
    energies, acting, _ = forces(Systems([replica], forces.device))
    cells, pbc = replica.cell[None], replica.pbc[None]
    output = model(graphs([atoms.numbers], [atoms.positions], cells, pbc, model))
    deviation = float((acting - output['forces'].detach()).abs().max())
    if not deviation < 1e-3:
        raise RuntimeError(f"forces of dynamics and of MACE's own pipeline differ by {deviation:.2e} eV/Å.")
    return {
        'results': {
            'energy': float(energies),
            'max_force': float(acting.abs().max()),
            'deviation': deviation,
            'n_cores': os.cpu_count(),
            'cuda': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        }
    }
