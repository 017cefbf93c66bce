"""A tiny training, for the tests of the training's runner, CalcJob and parser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.science.configurations import Configurations

#: Seconds instead of minutes.
TINY: dict[str, Any] = {'max_num_epochs': 3, 'num_channels': 4, 'max_ell': 1, 'batch_size': 3, 'valid_fraction': 0.25}


def copper(n_frames: int = 8, calculator: type[Calculator] = EMT, **parameters: Any) -> Configurations:
    """Return rattled copper cells and an isolated atom, labelled with EMT; every second frame lacks its stress."""
    frames = []
    for index in range(n_frames):
        atoms = bulk('Cu', cubic=True)
        atoms.rattle(0.08, seed=index)
        frames.append(atoms)
    frames.append(Atoms('Cu', cell=[12.0, 12.2, 12.4], pbc=True, positions=[[0.1, 0.2, 0.3]]))
    for atoms in frames:
        atoms.calc = calculator(**parameters)
        atoms.get_forces()
        atoms.get_stress()
    configurations = Configurations.concatenate(
        [
            Configurations.from_atoms(frames[:-1], labels=True),
            Configurations.from_atoms(frames[-1:], labels=True, role='isolated_atom'),
        ]
    )
    stress = configurations.stress.copy()
    stress[1::2] = np.nan
    return configurations.with_columns(stress=stress)


def lennard_jones(n_frames: int = 8) -> Configurations:
    """Return the frames of :func:`copper` at another level of theory: another zero, other forces."""
    return copper(n_frames, LennardJones, sigma=2.2, epsilon=0.1, rc=5.0)


def start(folder: Path, others: dict[str, Configurations] | None = None, **settings: Any) -> subprocess.Popen[bytes]:
    """Start a training in ``folder``, as a job does."""
    folder.mkdir(exist_ok=True)
    copper().save(folder / 'dataset.npz')
    for name, frames in (others or {}).items():
        frames.save(folder / f'other_{name}.npz')
    (folder / 'settings.json').write_text(json.dumps({**TINY, **settings}))
    (folder / 'runner.zip').write_bytes(build('train'))
    with (folder / 'runner.log').open('wb') as log:
        return subprocess.Popen(
            [sys.executable, '-I', 'runner.zip'],
            cwd=folder,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
