"""The last layer of a MACE model: what enters its final linear maps, and the uncertainty that follows from it.

A model whose training was asked for it carries its last-layer prediction rigidity, or further readouts, along in its
own file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.heads import main_head

__all__ = ('ATTRIBUTE', 'copy_spread', 'direction_forces', 'energy_features', 'features', 'spread', 'widths')

#: Attribute of a model that holds ``widths``, and ``energy`` and ``forces`` of a
#: :class:`aiida_mlipal.science.last_layer.LastLayerSpread`. Plain arrays, no buffer: the weights, and whatever copies
#: them, are not concerned.
ATTRIBUTE: Final = 'last_layer_spread'


def _last(readout: Any) -> Any:
    """Return the final linear map of a readout: the only one, or the one behind the hidden layer."""
    return readout.linear_2 if hasattr(readout, 'linear_2') else readout.linear


def widths(model: Any) -> list[int]:
    """Return the number of scalar features that enter the last linear map of each readout."""
    from e3nn import o3

    return [int(o3.Irreps(str(_last(readout).irreps_in)).count('0e')) for readout in model.readouts]


def features(model: Any, graph: dict[str, Any], sizes: Sequence[int]) -> tuple[Any, Any]:
    """Return the last-layer features of all atoms, ``(n_atoms, P)``, and the positions that they depend on.

    The interaction energy is linear in them, up to a constant. The factor by which the model scales it is in them.

    :param sizes: see :func:`widths`; scalars come first.
    """
    import torch

    seen: list[Any] = []
    handles = [
        _last(readout).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        for readout in model.readouts
    ]
    graph = dict(graph)
    try:
        model(graph, compute_force=False)
    finally:
        for handle in handles:
            handle.remove()
    joined = torch.cat([rows[:, :size] for rows, size in zip(seen, sizes, strict=True)], dim=1)
    scale = getattr(getattr(model, 'scale_shift', None), 'scale', None)
    if scale is not None:
        joined = joined * torch.atleast_1d(scale)[main_head(getattr(model, 'heads', None) or ['Default'])]
    return joined, graph['positions']


def direction_forces(values: Any, positions: Any, directions: Any) -> NDArray[np.float64]:
    """Return the forces of models whose last layer is each of ``directions``: ``(K, n_atoms, 3)``, eV/Å.

    :param values: features, as :func:`features` returned them with ``positions``.
    :param directions: ``(K, P)``; forces are linear in them.
    """
    import torch

    sums = (values @ directions.T).sum(dim=0)
    rows = [-torch.autograd.grad(total, positions, retain_graph=True)[0] for total in sums]
    result: NDArray[np.float64] = torch.stack(rows).detach().double().cpu().numpy()
    return result


def energy_features(values: Any, graph: dict[str, Any]) -> NDArray[np.float64]:
    """Return the features summed over the atoms of each frame, ``(n_frames, P)``, in double precision."""
    import torch

    total = torch.zeros((len(graph['ptr']) - 1, values.shape[1]), dtype=torch.float64, device=values.device)
    total.index_add_(0, graph['batch'], values.detach().double())
    result: NDArray[np.float64] = total.cpu().numpy()
    return result


def spread(model: Any, graph: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the standard deviations of energies (eV) and, per component, of forces (eV/Å); None if the
    model carries nothing to tell them.

    As a committee's, ``(n_frames,)`` and ``(n_atoms,)``: sqrt(sum over x, y, z of the variance / 3).
    """
    import torch

    carried = getattr(model, ATTRIBUTE, None)
    if carried is None:
        return None
    values, positions = features(model, graph, carried['widths'])
    directions = torch.as_tensor(carried['forces'], dtype=values.dtype, device=values.device)
    forces = direction_forces(values, positions, directions)
    energies = energy_features(values, graph) @ carried['energy'].T
    return np.sqrt(np.sum(energies**2, axis=1)), np.sqrt(np.sum(forces**2, axis=(0, 2)) / 3)


def copy_spread(source: Any, target: Any) -> None:
    """Give ``target``, which has the weights of ``source``, its spread too, if it carries one."""
    if hasattr(source, ATTRIBUTE):
        setattr(target, ATTRIBUTE, getattr(source, ATTRIBUTE))
