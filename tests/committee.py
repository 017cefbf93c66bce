"""Tiny models for the tests, trained once: a committee of copper, labelled by effective-medium theory, and silicon."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.io import write

_TRAIN = """
import sys
import mace
from mace.cli.run_train import run
from mace.tools import build_default_arg_parser
for member in sys.argv[1]:
    run(build_default_arg_parser().parse_args([*sys.argv[2:], '--name', 'member_0' + member, '--seed', member]))
"""
_OPTIONS = {
    'train_file': 'train.xyz', 'valid_fraction': 0.15, 'E0s': '{29: 3.51}', 'hidden_irreps': '8x0e', 'r_max': 4.0,
    'num_interactions': 2, 'correlation': 2, 'batch_size': 2, 'max_num_epochs': 10, 'eval_interval': 10,
    'loss': 'universal', 'compute_stress': True, 'device': 'cpu', 'default_dtype': 'float64', 'lr': 0.02,
    'energy_key': 'REF_energy', 'forces_key': 'REF_forces', 'stress_key': 'REF_stress',
}  # fmt: skip


def copper(seed: int, strain: float = 0.02, rattle: float = 0.08, repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    """Return a strained and rattled copper cell of four atoms, times ``repeat``."""
    rng = np.random.default_rng(seed)
    atoms = bulk('Cu', 'fcc', a=3.6, cubic=True) * repeat
    shear = rng.normal(scale=strain, size=(3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + (shear + shear.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(scale=rattle, size=atoms.positions.shape)
    return atoms


@cache
def trained_members(python: str = sys.executable) -> list[Path]:
    """Train two members in a process of their own (MACE changes torch's defaults) and return their files."""
    folder = _folder()
    _train([(copper(seed), EMT()) for seed in range(14)], folder, python, _OPTIONS)
    return [folder / 'member_00.model', folder / 'member_01.model']


@cache
def trained_silicon(python: str = sys.executable) -> Path:
    """Train a model of silicon, labelled by the potential of Stillinger and Weber, and return its file."""
    from matscipy.calculators.manybody import Manybody
    from matscipy.calculators.manybody.explicit_forms import stillinger_weber

    teacher = Manybody(**stillinger_weber.StillingerWeber(stillinger_weber.Stillinger_Weber_PRB_31_5262_Si))
    frames = []
    for seed in range(16):
        atoms = bulk('Si', cubic=True)
        atoms.set_cell(atoms.cell * np.random.default_rng(seed).uniform(0.98, 1.02), scale_atoms=True)
        atoms.rattle(0.04 + 0.06 * (seed % 3), seed=seed)
        frames.append((atoms, teacher))
    folder = _folder()
    _train(frames, folder, python, {**_OPTIONS, 'E0s': '{14: 0.0}', 'max_num_epochs': 20, 'eval_interval': 20}, '0')
    return folder / 'member_00.model'


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix='mlipal-committee-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _train(
    frames: list[tuple[Atoms, Calculator]], folder: Path, python: str, options: dict[str, object], members: str = '01'
) -> None:
    """Train members of these seeds on frames labelled by their calculators."""
    for atoms, teacher in frames:
        atoms.calc = teacher
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = None
        atoms.info.update(REF_energy=energy, REF_stress=stress)
        atoms.arrays['REF_forces'] = forces
    write(folder / 'train.xyz', [atoms for atoms, _ in frames])
    arguments = [text for key, value in options.items() for text in (f'--{key}', str(value))]
    process = subprocess.run(
        [python, '-c', _TRAIN, members, *arguments],
        cwd=folder, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode:
        raise RuntimeError(f'the training of the test committee failed:\n{process.stderr[-3000:]}')
