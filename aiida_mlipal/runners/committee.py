"""Evaluate a committee of MACE models on many frames, in batches, with one neighbour list for all members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.last_layer import spread
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.heads import main_head

__all__ = (
    'answer_with_main_head',
    'check_elements',
    'evaluate',
    'graphs',
    'load_models',
    'mean_invariants',
    'member_files',
    'model_elements',
)


def member_files(folder: Path) -> list[Path]:
    """Return the model files of a job's folder, by member.

    :raises FileNotFoundError: if there are none.
    """
    files = sorted(folder.glob('member_*.model'))
    if not files:
        raise FileNotFoundError(f'no `member_00.model` in {folder}.')
    return files


def load_models(files: Sequence[Path], *, device: str, dtype: str) -> list[Any]:
    """Unpickle the member models and make them ready for inference: no gradients of the weights, the main head.

    :raises ValueError: if the device is missing, a model of several heads has no main one, or the members differ in
        cutoff or elements and so cannot share a neighbour list.
    """
    import mace  # noqa: F401  (before e3nn, which it makes load old pickles)
    import torch

    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'device `{device}` was asked for, but torch sees no CUDA device; set `device: cpu`.')
    models = []
    for file in files:
        model = torch.load(file, map_location=device, weights_only=False)
        model = model.to(device=device, dtype=getattr(torch, dtype)).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        answer_with_main_head(model)
        models.append(model)
    frames = {(round(float(model.r_max), 6), tuple(model_elements(model))) for model in models}
    if len(frames) != 1:
        raise ValueError(f'members of one committee must agree in cutoff (Å) and elements, got {sorted(frames)}.')
    return models


def answer_with_main_head(model: Any) -> None:
    """Make every call of a model of several heads use the main one, whoever calls.

    MACE takes the first head where the input names none (TorchSim's never does), and the last one where it names an
    unknown one.
    """
    import torch

    heads = list(getattr(model, 'heads', None) or ['Default'])
    index = main_head(heads)
    if len(heads) == 1:
        return

    def name_the_head(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        graph, *rest = arguments
        head = torch.full((len(graph['ptr']) - 1,), index, device=graph['ptr'].device)
        return ({**graph, 'head': head}, *rest)

    model.register_forward_pre_hook(name_the_head)


def model_elements(model: Any) -> list[int]:
    """Return the atomic numbers that a model knows."""
    return [int(number) for number in model.atomic_numbers]


def check_elements(frames: Configurations, model: Any, what: str) -> None:
    """Raise ``ValueError`` if ``frames`` hold an element that ``model`` does not know; ``what`` names the frames."""
    from ase.data import chemical_symbols

    known = model_elements(model)
    unknown = [chemical_symbols[number] for number in np.unique(frames.numbers) if number not in known]
    if unknown:
        raise ValueError(
            f'{what} hold {", ".join(unknown)}, but the model knows only '
            f'{", ".join(chemical_symbols[number] for number in known)}. '
            'Add frames with these elements to the training set, or take them out here.'
        )


def graphs(
    numbers: Sequence[NDArray[np.int64]],
    positions: Sequence[NDArray[np.float64]],
    cells: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    model: Any,
) -> dict[str, Any]:
    """Return one MACE input for several frames, by MACE's own data pipeline, on the model's device and in its dtype.

    Neighbours are searched in double precision, whatever the model's dtype. Every mixture of sizes and periodicities
    works. Of several heads the model itself takes the main one, see :func:`load_models`.
    """
    from mace.data import AtomicData, Configuration
    from mace.tools import AtomicNumberTable
    from mace.tools.torch_geometric import Batch
    from mace.tools.torch_tools import default_dtype

    reference = next(model.parameters())
    table = AtomicNumberTable(model_elements(model))
    with default_dtype(str(reference.dtype).removeprefix('torch.')):
        batch = Batch.from_data_list(
            [
                AtomicData.from_config(
                    Configuration(
                        atomic_numbers=numbers[i],
                        positions=np.array(positions[i]),
                        cell=np.array(cells[i]),
                        pbc=tuple(bool(value) for value in pbc[i]),
                        properties={},
                        property_weights={},
                    ),
                    z_table=table,
                    cutoff=float(model.r_max),
                )
                for i in range(len(numbers))
            ]
        )
    graph: dict[str, Any] = batch.to(reference.device).to_dict()
    return graph


def _batches(n_atoms: NDArray[np.int64], batch_atoms: int) -> Iterator[list[int]]:
    """Yield runs of consecutive frames with at most ``batch_atoms`` atoms (one frame may have more)."""
    batch: list[int] = []
    size = 0
    for index, count in enumerate(n_atoms.tolist()):
        if batch and size + count > batch_atoms:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += count
    if batch:
        yield batch


def mean_invariants(output: dict[str, Any], model: Any, graph: dict[str, Any]) -> Any:
    """Return the mean over atoms of the invariant node features of all layers, ``(n_frames, D)``: the descriptors.

    :param output: what ``model`` returned for ``graph``.
    :returns: a double-precision tensor, differentiable by the positions.
    """
    import torch
    from e3nn import o3
    from mace.modules.utils import extract_invariant

    irreps = o3.Irreps(str(model.products[0].linear.irreps_out))
    l_max = irreps.lmax
    invariant = extract_invariant(
        output['node_feats'],
        num_layers=int(model.num_interactions),
        num_features=irreps.dim // (l_max + 1) ** 2,
        l_max=l_max,
    ).double()
    n_frames = len(graph['ptr']) - 1
    total = torch.zeros((n_frames, invariant.shape[1]), dtype=invariant.dtype, device=invariant.device)
    counts = (graph['ptr'][1:] - graph['ptr'][:-1]).to(invariant.dtype)
    return total.index_add(0, graph['batch'], invariant) / counts[:, None]


def evaluate(frames: Configurations, models: Sequence[Any], *, batch_atoms: int) -> Evaluation:
    """Return what the committee says of ``frames``, in their order.

    Energies are summed in double precision, so that single-precision models do not lose them to large atomic energies.
    The spread of K members is their sample standard deviation (K - 1 in the denominator). That of one model follows
    from its last layer, if its file says how. Stress is NaN for frames that are not periodic in all
    three directions: they have no volume.

    :param batch_atoms: atoms per batch, at most.
    :raises ValueError: if a frame holds an element that the models do not know.
    :raises FloatingPointError: if a prediction is not finite.
    """
    import torch
    from ase.stress import full_3x3_to_voigt_6_stress

    check_elements(frames, models[0], 'the frames')
    n_members, offsets = len(models), frames.offsets
    energy = np.zeros((n_members, len(frames)))
    forces = np.zeros((n_members, len(frames.numbers), 3))
    stress = np.zeros((n_members, len(frames), 6))
    energy_std, stress_std = np.full((2, len(frames)), np.nan)
    forces_std = np.full(len(frames.numbers), np.nan)
    descriptors: list[NDArray[np.float64]] = []
    for batch in _batches(frames.n_atoms, batch_atoms):
        first, last = batch[0], batch[-1] + 1
        rows = slice(offsets[first], offsets[last])
        graph = graphs(
            [frames.numbers[offsets[i] : offsets[i + 1]] for i in batch],
            [frames.positions[offsets[i] : offsets[i + 1]] for i in batch],
            frames.cell[first:last],
            frames.pbc[first:last],
            models[0],
        )
        for member, model in enumerate(models):
            output = model(dict(graph), compute_stress=True)
            energies = torch.zeros(len(batch), dtype=torch.float64, device=graph['batch'].device)
            energies.index_add_(0, graph['batch'], output['node_energy'].detach().double())
            energy[member, first:last] = energies.cpu().numpy()
            forces[member, rows] = output['forces'].detach().cpu().numpy()
            stress[member, first:last] = full_3x3_to_voigt_6_stress(output['stress'].detach().cpu().numpy())
            if member == 0:
                descriptors.append(mean_invariants(output, model, graph).detach().cpu().numpy())
        own = spread(models[0], graph) if n_members == 1 else None
        if own is not None:
            energy_std[first:last], forces_std[rows] = own
    stress[:, ~frames.pbc.all(axis=1)] = np.nan
    if not (np.isfinite(energy).all() and np.isfinite(forces).all()):
        bad = frames.frame_id[~np.isfinite(energy).all(axis=0)].tolist()
        raise FloatingPointError(f'a prediction is not finite, for example of the frames {bad[:3]}.')
    if n_members > 1:
        energy_std = energy.std(axis=0, ddof=1)
        forces_std, stress_std = (np.sqrt(each.var(axis=0, ddof=1).mean(axis=-1)) for each in (forces, stress))
    return Evaluation(
        frame_id=frames.frame_id,
        n_atoms=frames.n_atoms,
        energy=energy.mean(axis=0),
        forces=forces.mean(axis=0),
        stress=stress.mean(axis=0),
        energy_std=energy_std,
        forces_std=forces_std,
        stress_std=stress_std,
        member_energy=energy.T,
        descriptors=np.concatenate(descriptors) if descriptors else np.zeros((0, 0)),
    )
