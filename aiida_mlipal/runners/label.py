"""Label frames with an ASE calculator: a cheap teacher, or a code that ASE drives."""

from __future__ import annotations

import importlib
import inspect
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_settings import LabelSettings
from aiida_mlipal.science.settings import from_dict, unknown_name

__all__ = ('label', 'run')

#: Parameters of every calculator that runs a program.
_COMMON: Final = ('command', 'directory', 'label')


def _calculator_class(settings: LabelSettings) -> Any:
    """Return the class of the calculator.

    :raises ValueError: if the module has no such class, or the class does not know a parameter (ASE's own classes
        would take a misspelt one without a word).
    """
    module, _, name = settings.path.rpartition('.')
    imported = importlib.import_module(module)
    if not hasattr(imported, name):
        raise ValueError(f'`{module}` has no class `{name}` (calculator `{settings.calculator}`).')
    cls = getattr(imported, name)
    known = getattr(cls, 'default_parameters', {})
    named = [key for key, value in inspect.signature(cls).parameters.items() if value.kind is not value.VAR_KEYWORD]
    valid = {*known, *named, *_COMMON}
    for key in settings.parameters if known else ():
        if key not in valid:
            raise ValueError(unknown_name(f'parameter of `{settings.calculator}`', key, valid))
    return cls


def _single_point(atoms: Atoms, calculator: Any) -> tuple[float, Any, Any]:
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
    return energy, forces, stress


def label(frames: Configurations, settings: LabelSettings) -> Configurations:
    """Return ``frames`` with labels. One that fails is a row with status ``rejected`` and the reason.

    Charge and multiplicity are handed over as ASE does: initial charges and magnetic moments.
    """
    energies, forces, stresses = np.full(len(frames), np.nan), np.full((len(frames.numbers), 3), np.nan), []
    reasons = []
    calculator_class = _calculator_class(settings)
    offsets = frames.offsets
    for index in range(len(frames)):
        atoms = Atoms(
            numbers=frames.numbers[offsets[index] : offsets[index + 1]],
            positions=frames.positions[offsets[index] : offsets[index + 1]],
            cell=frames.cell[index],
            pbc=frames.pbc[index],
        )
        if frames.charge[index]:
            atoms.set_initial_charges(np.full(len(atoms), frames.charge[index] / len(atoms)))
        if frames.multiplicity[index] > 1:
            atoms.set_initial_magnetic_moments(np.full(len(atoms), (frames.multiplicity[index] - 1) / len(atoms)))
        stress = np.full(6, np.nan)
        try:
            calculator = calculator_class(**settings.parameters)  # a new one: no frame depends on the one before
            energies[index], forces[offsets[index] : offsets[index + 1]], stress = _single_point(atoms, calculator)
            reasons.append('')
        except Exception as exception:  # whatever goes wrong in foreign code is this frame's reason, not the job's end
            reasons.append(f'{type(exception).__name__}: {exception}'.splitlines()[0])
        stresses.append(stress)
    return frames.with_columns(
        energy=energies,
        forces=forces,
        stress=stresses,
        status=['rejected' if reason else 'labelled' for reason in reasons],
        reason=reasons,
    )


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read ``configurations.npz``, write ``labels.npz``."""
    start = time.perf_counter()
    frames = label(Configurations.load(folder / 'configurations.npz'), from_dict(LabelSettings, settings))
    frames.save(folder / 'labels.npz')
    n_labelled = int(frames.is_labelled.sum())
    return {
        'results': {
            'n_labelled': n_labelled,
            'n_rejected': len(frames) - n_labelled,
            'label_s': time.perf_counter() - start,
        }
    }
