"""A tiny foundation model, and trainings that start from it, for the tests of fine-tuning."""

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
from ase.calculators.emt import EMT

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.science.configurations import Configurations

#: What decides the architecture of the foundation model, and how it is trained, in seconds.
SMALL: dict[str, Any] = {'num_channels': 8, 'max_ell': 2, 'r_max': 4.0, 'num_radial_basis': 6}
PRETRAINING: dict[str, Any] = {**SMALL, 'max_num_epochs': 40, 'batch_size': 4, 'ema_decay': 0.9}
#: A level of theory beside EMT: forces are larger by this factor, and atoms have other energies, eV.
STIFFNESS, ZERO = 1.25, {'Al': -3.0, 'Cu': 5.0}

#: Runs a program for which there is no network.
_OFFLINE = """
import runpy, socket
def refuse(*arguments, **more):
    raise RuntimeError(f'a connection was tried: {arguments}')
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
runpy.run_path('runner.zip', run_name='__main__')
"""


def alloy(n_frames: int, seed: int, *, elements: tuple[str, ...] = ('Cu', 'Al'), other: bool = False) -> Configurations:
    """Return rattled and strained cells of four atoms in random occupation, and the isolated atoms.

    :param other: label them at the other level of theory instead of EMT.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(n_frames):
        atoms = bulk('Cu', a=3.85, cubic=True)
        atoms.symbols = rng.choice(elements, 4)
        atoms.symbols[0] = elements[index % len(elements)]
        atoms.rattle(0.1, rng=rng)
        atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
        frames.append(atoms)
    frames += [Atoms(symbol, cell=[12.0, 12.2, 12.4], pbc=True, positions=[[0.1, 0.2, 0.3]]) for symbol in elements]
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.get_stress()
    labelled = Configurations.concatenate(
        [
            Configurations.from_atoms(frames[:n_frames], labels=True),
            Configurations.from_atoms(frames[n_frames:], labels=True, role='isolated_atom'),
        ]
    )
    if not other:
        return labelled
    zero = [sum(ZERO[symbol] for symbol in atoms.get_chemical_symbols()) for atoms in frames]
    return labelled.with_columns(
        energy=STIFFNESS * labelled.energy + zero,
        forces=STIFFNESS * labelled.forces,
        stress=STIFFNESS * labelled.stress,
    )


def start(
    folder: Path,
    dataset: Configurations,
    foundation: Path | None = None,
    replay: Configurations | None = None,
    head: str | None = None,
    **settings: Any,
) -> subprocess.Popen[bytes]:
    """Start a training in ``folder``, as a job does, on a machine without network."""
    folder.mkdir(exist_ok=True)
    dataset.save(folder / 'dataset.npz')
    if foundation is not None:
        (folder / 'foundation.model').write_bytes(foundation.read_bytes())
        (folder / 'foundation.json').write_text(json.dumps({'head': head}))
    if replay is not None:
        replay.save(folder / 'replay.npz')
    (folder / 'settings.json').write_text(json.dumps({'seeds': [1], **settings}))
    (folder / 'runner.zip').write_bytes(build('train'))
    with (folder / 'runner.log').open('wb') as log:
        return subprocess.Popen(
            [sys.executable, '-I', '-c', _OFFLINE],
            cwd=folder,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def result(folder: Path) -> dict[str, Any]:
    """Return what became of a training."""
    return dict(json.loads((folder / 'result.json').read_text()))
