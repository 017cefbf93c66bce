"""Give a trained model an uncertainty that its last layer tells, without another training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aiida_mlipal.runners.committee import evaluate, graphs, load_models
from aiida_mlipal.runners.last_layer import ATTRIBUTE, direction_forces, energy_features, features, widths
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.last_layer import LastLayerData
from aiida_mlipal.science.llpr import fit
from aiida_mlipal.science.readouts import fit_readouts

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ('attach', 'last_layer_data')

#: Atoms whose force features are looked at: three rows each, many times the number of features. More cost time (as
#: much as the training, for a wide model on thousands of frames) and change nothing.
_MAX_ATOMS: Final = 4000
_BATCH_ATOMS: Final = 256


def _sample(frames: Sequence[Atoms], seed: int) -> list[Atoms]:
    """Return frames with about ``_MAX_ATOMS`` atoms in all, drawn without replacement, or all."""
    order = np.random.default_rng(seed).permutation(len(frames))
    ends = np.cumsum([len(frames[row]) for row in order])
    n_frames = max(1, int(np.searchsorted(ends, _MAX_ATOMS, side='right')))
    return [frames[row] for row in sorted(order[:n_frames].tolist())]


def last_layer_data(model: Any, frames: Sequence[Atoms]) -> LastLayerData:
    """Return last-layer features and errors of labelled ``frames``, as MACE's files hold them.

    :param model: as :func:`aiida_mlipal.runners.committee.load_models` returns it.
    """
    import torch

    sizes = widths(model)
    energies, forces = [], []
    batches = np.array_split(np.arange(len(frames)), -(-sum(map(len, frames)) // _BATCH_ATOMS))
    for rows in batches:
        batch = [frames[row] for row in rows]
        if not batch:
            continue
        graph = graphs(
            [atoms.numbers for atoms in batch],
            [atoms.positions for atoms in batch],
            np.array([atoms.cell.array for atoms in batch]),
            np.array([atoms.pbc for atoms in batch]),
            model,
        )
        values, positions = features(model, graph, sizes)
        unit = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
        energies.append(energy_features(values, graph))
        forces.append(direction_forces(values, positions, unit).reshape(len(unit), -1).T)
    predicted = evaluate(Configurations.from_atoms(list(frames)), [model], batch_atoms=_BATCH_ATOMS)
    labels = np.concatenate([atoms.arrays['REF_forces'] for atoms in frames])
    return LastLayerData(
        energy=np.concatenate(energies),
        forces=np.concatenate(forces),
        n_atoms=predicted.n_atoms,
        energy_error=predicted.energy - np.array([atoms.info['REF_energy'] for atoms in frames]),
        forces_error=(predicted.forces - labels).ravel(),
    )


def attach(
    path: Path, train: Sequence[Atoms], valid: Sequence[Atoms], *, seed: int, device: str, n_readouts: int | None = None
) -> dict[str, Any]:
    """Write the uncertainty of the last layer into a model file; return how it was found, and the seconds it took.

    :param train: frames with ``REF_energy`` and ``REF_forces``, which the model was trained on.
    :param valid: frames that it was not trained on.
    :param seed: of the directions or samples that are drawn, and of the frames that are looked at, if there are very
        many.
    :param n_readouts: of ``heads``, without it ``llpr``.
    """
    import torch

    start = time.perf_counter()
    plain = torch.load(path, map_location='cpu', weights_only=False)
    dtype = str(next(plain.parameters()).dtype).removeprefix('torch.')
    (model,) = load_models([path], device=device, dtype=dtype)
    data = [last_layer_data(model, _sample(frames, seed)) for frames in (train, valid)]
    found = fit(*data, seed=seed) if n_readouts is None else fit_readouts(*data, seed=seed, n_readouts=n_readouts)
    setattr(plain, ATTRIBUTE, {'widths': widths(model), 'energy': found.energy, 'forces': found.forces})
    torch.save(plain, path)
    kind = 'llpr' if n_readouts is None else 'heads'
    return {'kind': kind, **found.report, 'wall_s': round(time.perf_counter() - start, 3)}
