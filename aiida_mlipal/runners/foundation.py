"""The model that a training starts from: what its file holds, and what MACE must not take from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiida_mlipal.science.foundation import FOUNDATION, FOUNDATION_HEAD, REPLAY_HEAD

__all__ = ('Foundation', 'architecture', 'atomic_energies', 'begin_at_new_level', 'heads_of', 'load', 'read_foundation')

#: Frames from which the mean energy at the new level is taken.
_SAMPLE: Final = 200


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """A model to start from."""

    path: Path
    head: str | None  #: the one to start from, ``None`` if there is only one
    architecture: dict[str, Any]  #: settings that follow from it
    e0s: dict[int, float]  #: energies of the atoms by atomic number, eV, of that head


def read_foundation(folder: Path) -> Foundation | None:
    """Return the model to start from that lies in the working directory, ``None`` if there is none."""
    path = folder / FOUNDATION
    if not path.exists():
        return None
    model, head = load(path), json.loads((folder / FOUNDATION_HEAD).read_text(encoding='utf-8'))['head']
    energies = atomic_energies(model)
    return Foundation(
        path=path,
        head=head,
        architecture=architecture(model),
        e0s=energies[head if head is not None else heads_of(model)[0]],
    )


def load(path: Path) -> Any:
    """Return the model in a file, on the CPU.

    :raises ValueError: if it is not one that MACE can train further.
    """
    import mace  # noqa: F401 - before e3nn, and it lets torch unpickle models
    import torch

    expected = 'expected a `ScaleShiftMACE` saved with `torch.save`, such as MACE-MP-0 or what `mace_run_train` writes'
    try:
        model = torch.load(path, map_location='cpu', weights_only=False)
    except Exception as exception:  # unpickling runs what the file says
        raise ValueError(f'{path.name} cannot be read ({type(exception).__name__}: {exception}); {expected}.') from None
    kind = type(model).__name__
    if kind != 'ScaleShiftMACE':
        advice = '; for a compiled one take the file it was made from' if 'Script' in kind else ''
        raise ValueError(f'{path.name} holds a `{kind}`; {expected}{advice}.')
    return model


def heads_of(model: Any) -> list[str]:
    """Return the names of a model's heads; those of the first versions of MACE have one without a name."""
    return list(getattr(model, 'heads', None) or ['Default'])


def atomic_energies(model: Any) -> dict[str, dict[int, float]]:
    """Return the energies (eV) of the atoms of each head, by atomic number."""
    energies = np.atleast_2d(model.atomic_energies_fn.atomic_energies.cpu().double().numpy())
    numbers = [int(number) for number in model.atomic_numbers]
    return {
        head: dict(zip(numbers, row.tolist(), strict=True)) for head, row in zip(heads_of(model), energies, strict=True)
    }


def architecture(model: Any) -> dict[str, Any]:
    """Return the settings that follow from a model, by their names in the training settings."""
    from mace.tools.scripts_utils import extract_config_mace_model

    config: Mapping[str, Any] = extract_config_mace_model(model)
    hidden = config['hidden_irreps']
    return {
        'correlation': int(config['correlation']),
        'distance_transform': str(config['distance_transform']),
        'max_L': int(hidden.lmax),
        'max_ell': int(config['max_ell']),
        'num_channels': int(hidden[0].mul),
        'num_cutoff_basis': int(config['num_polynomial_cutoff']),
        'num_interactions': int(config['num_interactions']),
        'num_radial_basis': int(config['num_bessel']),
        'pair_repulsion': bool(config['pair_repulsion']),
        'r_max': float(f'{config["r_max"]:.6g}'),  # single precision has no more digits
        'radial_MLP': [int(width) for width in config['radial_MLP']],
    }


def begin_at_new_level(run_train: Any) -> None:
    """Make ``run_train``, MACE's module, begin at the energies of the new level of theory, in this process.

    Two things that MACE (0.3.16) takes from the foundation model belong to the old level:

    - the energies of the atoms. It copies all that has the same shape, and with the same elements and one head these
      have: it says in its log that it uses those of ``--E0s``, and trains with the others;
    - the shift, the mean energy of an atom in the frames over that of a lone one. For other frames or another level it
      may be wrong by an electronvolt, which takes the readouts more epochs to learn than all the rest.
    """
    import torch

    configure = run_train.configure_model

    def configure_model(
        args: Any, train_loader: Any, e0s: Any, foundation: Any, heads: list[str], *arguments: Any, **more: Any
    ) -> Any:
        model, *others = configure(args, train_loader, e0s, foundation, heads, *arguments, **more)
        kept = model.atomic_energies_fn.atomic_energies
        kept.copy_(torch.as_tensor(e0s, dtype=kept.dtype, device=kept.device).reshape(kept.shape))
        model.to(args.device)
        for index, (head, frames) in enumerate(zip(heads, train_loader.dataset.datasets, strict=True)):
            if head != REPLAY_HEAD:
                model.scale_shift.shift.view(-1)[index] += _mean_residual(model, frames, train_loader.batch_size)
        return model, *others

    run_train.configure_model = configure_model


def _mean_residual(model: Any, frames: Sequence[Any], batch_size: int) -> float:
    """Return what the energies per atom (eV) of a model lack on training frames, or on a sample if there are many."""
    from mace.tools import torch_geometric

    rows = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLE)).astype(int)).tolist()
    device, residuals = next(model.parameters()).device, []
    for start in range(0, len(rows), batch_size):
        batch = torch_geometric.Batch.from_data_list([frames[row] for row in rows[start : start + batch_size]])
        batch = batch.to(device)
        energy = model(batch.to_dict(), compute_force=False)['energy'].detach()
        residuals += ((batch.energy - energy) / (batch.ptr[1:] - batch.ptr[:-1])).double().tolist()
    return float(np.mean(residuals))
