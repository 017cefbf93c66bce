"""NVIDIA's cuEquivariance kernels for MACE: asked for with ``enable_cueq``, switched on only where they prove right.

They have given wrong energies and forces without a word (ACEsuit/mace#1298, ACEsuit/mace#1540). So each job first
computes a few of its own frames with and without them, and goes on without them if the two differ, or if the package is
missing. What was found is part of its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any, Final

import numpy as np
from ase import Atoms

from aiida_mlipal.runners.committee import answer_with_main_head, graphs
from aiida_mlipal.runners.last_layer import copy_spread
from aiida_mlipal.science.configurations import Configurations

__all__ = ('accelerate', 'accelerate_calculator', 'accelerate_models', 'compare', 'guard_training')

PACKAGE: Final = 'cuequivariance_torch'
#: Frames to compare.
N_SAMPLES: Final = 3
#: Largest differences that are rounding, by floating-point type: of energies in eV per atom, of forces in eV/Å for
#: forces up to 1 eV/Å and in proportion to the largest one above.
LIMITS: Final = {'float32': (1e-4, 1e-3), 'float64': (1e-8, 1e-7)}

Values = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def compare(plain: Iterable[Values], accelerated: Iterable[Values], dtype: str) -> dict[str, Any]:
    """Return the largest differences over some frames, and whether they are small enough.

    :param plain: energy per atom (eV) and forces (eV/Å) of each frame, as are those ``accelerated``.
    :param dtype: floating-point type of the models.
    :returns: ``enabled``, ``reason`` (empty if enabled), ``energy_difference`` and ``force_difference``.
    """
    energy_limit, force_limit = LIMITS[dtype]
    energy = force = scale = 0.0
    for (energy_a, forces_a), (energy_b, forces_b) in zip(plain, accelerated, strict=True):
        # np.fmax and the like would pass over what is not a number.
        energy = float(np.maximum(energy, np.max(np.abs(energy_a - energy_b))))
        force = float(np.maximum(force, np.max(np.abs(forces_a - forces_b))))
        scale = max(scale, float(np.max(np.abs(forces_a))))
    good = energy <= energy_limit and force <= force_limit * max(1.0, scale)
    reason = '' if good else f'energies differ by {energy:.1e} eV per atom, forces by {force:.1e} eV/Å'
    return {'enabled': good, 'reason': reason, 'energy_difference': energy, 'force_difference': force}


def _refusal(reason: str) -> dict[str, Any]:
    return {'enabled': False, 'reason': reason}


def _missing() -> dict[str, Any] | None:
    """Return the refusal if the package is not installed."""
    if find_spec(PACKAGE) is not None:
        return None
    import torch

    cuda = (torch.version.cuda or '12').partition('.')[0]
    install = f'pip install cuequivariance-torch cuequivariance-ops-torch-cu{cuda}'
    return _refusal(f'the Python package {PACKAGE} is missing: `{install}`')


def _values(model: Any, frames: Sequence[Atoms]) -> list[Values]:
    """Return energies per atom and forces of ``frames``, one by one."""
    found = []
    for atoms in frames:
        cell, pbc = np.array([atoms.cell.array]), np.array([atoms.pbc])
        output = model(graphs([atoms.numbers], [atoms.positions], cell, pbc, model), compute_stress=False)
        energy, forces = (output[name].detach().double().cpu().numpy() for name in ('energy', 'forces'))
        found.append((energy / len(atoms), forces))
    return found


def _calculated(calculator: Any, frames: Sequence[Atoms]) -> list[Values]:
    """Return energies per atom and forces of ``frames`` from an ASE calculator."""
    return [
        (np.array([calculator.get_potential_energy(atoms) / len(atoms)]), calculator.get_forces(atoms))
        for atoms in frames
    ]


def _checked(plain: Any, frames: Sequence[Atoms], convert: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """Return the converted model if it does as the plain one does, else the plain one; and what was found.

    Whatever goes wrong in foreign kernels is a reason to go on without them, not this job's end.
    """
    import torch

    dtype = torch.get_default_dtype()
    try:
        accelerated = convert(plain)
        samples = list(frames)[:N_SAMPLES]
        precision = str(next(plain.parameters()).dtype).removeprefix('torch.')
        found = compare(_values(plain, samples), _values(accelerated, samples), precision)
    except Exception as exception:
        found = _refusal(f'{type(exception).__name__}: {exception}'.splitlines()[0])
    finally:
        torch.set_default_dtype(dtype)  # which the conversion changes
    return (accelerated if found['enabled'] else plain), found


def _convert(model: Any) -> Any:
    """Return a model with the same weights and cuEquivariance's kernels, ready for inference."""
    from mace.cli.convert_e3nn_cueq import run

    parameter = next(model.parameters())
    converted = run(model, device=parameter.device.type).to(device=parameter.device, dtype=parameter.dtype).eval()
    for parameter in converted.parameters():
        parameter.requires_grad_(False)
    answer_with_main_head(converted)
    copy_spread(model, converted)
    return converted


def accelerate(models: Sequence[Any], frames: Iterable[Atoms]) -> tuple[list[Any], dict[str, Any]]:
    """Return the members of a committee with cuEquivariance's kernels, if all do as the plain ones do; else these.

    :param frames: of the job itself; the first few are compared.
    :returns: the models, and what was found: ``enabled``, ``reason``, and the largest differences of energies (eV per
        atom) and forces (eV/Å).
    """
    missing = _missing()
    if missing is not None:
        return list(models), missing
    samples = list(islice(frames, N_SAMPLES))
    accelerated, worst = [], {'enabled': True, 'reason': '', 'energy_difference': 0.0, 'force_difference': 0.0}
    for model in models:
        changed, found = _checked(model, samples, _convert)
        if not found['enabled']:
            return list(models), found
        accelerated.append(changed)
        worst |= {key: max(worst[key], found[key]) for key in ('energy_difference', 'force_difference')}
    return accelerated, worst


def accelerate_models(
    models: Sequence[Any], frames: Configurations, asked: bool
) -> tuple[list[Any], dict[str, dict[str, Any]]]:
    """Return :func:`accelerate` if it was asked for, else the models; and what goes into the results of the job."""
    if not asked:
        return list(models), {}
    accelerated, found = accelerate(models, (frames.atoms(index) for index in range(len(frames))))
    return accelerated, {'cueq': found}


def accelerate_calculator(make: Callable[..., Any], frames: Iterable[Atoms]) -> tuple[Any, dict[str, Any]]:
    """Return MACE's ASE calculator with cuEquivariance's kernels, if it does as the plain one does; else that one.

    :param make: makes the calculator, with ``enable_cueq`` as it is told.
    """
    plain, missing = make(enable_cueq=False), _missing()
    if missing is not None:
        return plain, missing
    try:
        accelerated = make(enable_cueq=True)
        samples = list(islice(frames, N_SAMPLES))
        precision = str(next(plain.models[0].parameters()).dtype).removeprefix('torch.')
        found = compare(_calculated(plain, samples), _calculated(accelerated, samples), precision)
    except Exception as exception:  # as in :func:`_checked`
        found = _refusal(f'{type(exception).__name__}: {exception}'.splitlines()[0])
    return (accelerated if found['enabled'] else plain), found


def guard_training(run_train: Any, frames: Sequence[Atoms]) -> dict[str, Any]:
    """Let MACE's training, which was started with ``--enable_cueq``, change to the kernels only after a comparison.

    :param run_train: the module ``mace.cli.run_train``, of which two functions are replaced.
    :param frames: training frames; the first few are compared, with the weights at the start.
    :returns: what was found, filled in once the training has begun.
    """
    record = _refusal('the training never came to the comparison')
    to_cueq, to_e3nn = run_train.run_e3nn_to_cueq, run_train.run_cueq_to_e3nn

    def convert(model: Any, device: Any) -> Any:
        missing = _missing()
        if missing is not None:
            record.update(missing)
            return model
        changed, found = _checked(model, frames, lambda plain: to_cueq(plain, device=device))
        record.update(found)
        return changed

    def convert_back(model: Any, device: Any) -> Any:
        return to_e3nn(model, device=device) if record['enabled'] else model

    run_train.run_e3nn_to_cueq, run_train.run_cueq_to_e3nn = convert, convert_back
    return record
