"""Label frames with an ASE calculator: a cheap teacher, or a code that ASE drives."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_log import read_labels, unfinished
from aiida_mlipal.science.label_settings import LabelSettings, calculator_class
from aiida_mlipal.science.settings import from_dict

__all__ = ('compute', 'run')

#: Calculators that keep nothing but their model from frame to frame, and take longer to start than for a frame. All
#: others are made anew: a reused TBLite starts its SCF from the frame before, which moves energies by 1e-5 eV and saves
#: one part in eight.
_REUSED: Final = ('mace',)


def _maker(
    settings: LabelSettings, model_files: Sequence[str], frames: Configurations, found: dict[str, Any]
) -> Callable[[Configurations, int], Any]:
    """Return the function that provides the calculator of a frame; what is to be recorded of it goes into ``found``."""
    cls = calculator_class(settings)
    parameters: dict[str, Any] = dict(settings.parameters)
    if model_files:
        parameters['model_paths'] = list(model_files)
    if settings.name in _REUSED:
        if parameters.pop('enable_cueq', False):
            from aiida_mlipal.runners.cueq import accelerate_calculator

            samples = (_atoms(frames, index) for index in range(len(frames)))
            calculator, found['cueq'] = accelerate_calculator(partial(cls, **parameters), samples)
        else:
            calculator = cls(**parameters)
        return lambda frames, index: calculator

    def make(frames: Configurations, index: int) -> Any:
        if settings.name == 'tblite':
            # It takes both as numbers, and from atoms would add up fractions.
            own = {'charge': float(frames.charge[index]), 'multiplicity': int(frames.multiplicity[index]) or None}
            return cls(**parameters, **own)
        return cls(**parameters)

    return make


def _atoms(frames: Configurations, index: int) -> Atoms:
    """Return a frame without its label. Charge and spin are handed over as ASE does: initial charges and moments."""
    atoms = Atoms(
        numbers=frames.numbers[frames.offsets[index] : frames.offsets[index + 1]],
        positions=frames.positions[frames.offsets[index] : frames.offsets[index + 1]],
        cell=frames.cell[index],
        pbc=frames.pbc[index],
    )
    moments = frames.initial_moments[frames.offsets[index] : frames.offsets[index + 1]]
    if frames.charge[index]:
        atoms.set_initial_charges(np.full(len(atoms), frames.charge[index] / len(atoms)))
    if moments.any():
        atoms.set_initial_magnetic_moments(moments)
    elif frames.multiplicity[index] > 1:
        atoms.set_initial_magnetic_moments(np.full(len(atoms), (frames.multiplicity[index] - 1) / len(atoms)))
    return atoms


def _single_point(atoms: Atoms, calculator: Any) -> dict[str, Any]:
    """Return energy (eV, consistent with the forces), forces (eV/Å) and stress (eV/Å³; NaN where there is none).

    :raises ValueError: if a value is not finite.
    """
    atoms.calc = calculator
    forces = atoms.get_forces()
    energy = float(atoms.get_potential_energy(force_consistent='free_energy' in calculator.implemented_properties))
    stress = np.full(6, np.nan)
    if atoms.pbc.all() and 'stress' in calculator.implemented_properties:
        stress = atoms.get_stress()
        if not np.isfinite(stress).all():
            raise ValueError('the stress is not finite')
    if not np.isfinite(energy):
        raise ValueError('the energy is not finite')
    if not np.isfinite(forces).all():
        raise ValueError('a force is not finite')
    return {'energy': energy, 'forces': forces.tolist(), 'stress': stress.tolist()}


def compute(
    frames: Configurations,
    rows: Sequence[int],
    settings: LabelSettings,
    model_files: Sequence[str] = (),
    found: dict[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the lines of :mod:`aiida_mlipal.science.label_log` for these ``rows``, in their order.

    A frame that fails gives a reason instead of values. No frame depends on the one before.

    :param found: takes up what is to be recorded of the calculator.
    """
    make = _maker(settings, model_files, frames, {} if found is None else found)
    for index in rows:
        yield {'started': int(index)}
        start = time.perf_counter()
        try:
            values = {'reason': '', **_single_point(_atoms(frames, index), make(frames, index))}
        except Exception as exception:  # whatever goes wrong in foreign code is this frame's reason, not the job's end
            values = {'reason': f'{type(exception).__name__}: {exception}'.splitlines()[0].strip()}
        yield {'frame': int(index), 'wall_s': round(time.perf_counter() - start, 6), **values}


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read ``configurations.npz``, and ``previous.npz`` if it is there; append to ``labels.jsonl``."""
    start = time.perf_counter()
    frames = Configurations.load(folder / 'configurations.npz')
    left = folder / 'previous.npz'
    previous = Configurations.load(left) if left.exists() else None
    rows = range(len(frames)) if previous is None else unfinished(previous)
    model_files = sorted(str(path) for path in folder.glob('member_*.model'))
    path, found = folder / 'labels.jsonl', dict[str, Any]()
    with path.open('w', encoding='utf-8') as log:
        for line in compute(frames, rows, from_dict(LabelSettings, settings), model_files, found):
            log.write(json.dumps(line) + '\n')
            log.flush()  # what comes next may kill this process
    labels, seconds = read_labels(path, frames, previous)
    n_labelled = int(labels.is_labelled.sum())
    return {
        'results': {
            'n_labelled': n_labelled,
            'n_rejected': len(frames) - n_labelled,
            'label_s': time.perf_counter() - start,
            'frame_wall_s': seconds,
            **found,
        }
    }
