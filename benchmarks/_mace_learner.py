"""A small MACE model as the model of a closed loop, trained and evaluated by the programs of the jobs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from _systems import System, calculator
from ase import Atoms
from training_uncertainty import train

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation

#: Steps of the optimiser in a training, whatever the number of frames.
N_UPDATES, BATCH_SIZE = 300, 4


class MaceLearner:
    """One model of 8 channels, trained from scratch each time; its uncertainty is that of its last layer."""

    def __init__(self, folder: Path, system: System, seed: int) -> None:
        self._folder, self._seed, self._n_trained = folder, seed, 0
        self._cutoff = system.cutoff
        self._e0s = {}
        for symbol in sorted(set(system.parent.symbols)):
            atom = Atoms(symbol, cell=np.full(3, 12.0))
            atom.calc = calculator(system.teacher)
            self._e0s[symbol] = float(atom.get_potential_energy())

    def train(self, dataset: Configurations) -> None:
        """Learn from the training frames, of which the program takes a fifth to validate."""
        from aiida_mlipal.runners.committee import load_models
        from aiida_mlipal.runners.forces import MaceForces

        frames = dataset.take(dataset.is_labelled & dataset.has_role('train'))
        folder = self._folder / f'{self._n_trained:02d}'
        settings = {
            'seeds': [100 * self._seed + self._n_trained], 'uncertainty': 'llpr', 'num_channels': 8, 'max_L': 0,
            'r_max': self._cutoff, 'e0s': self._e0s, 'batch_size': BATCH_SIZE, 'stress_weight': 0.0,
            'max_num_epochs': math.ceil(N_UPDATES * BATCH_SIZE / len(frames)), 'split_seed': self._seed,
        }  # fmt: skip
        train(folder, frames, settings)
        self._n_trained += 1
        self._models = load_models([folder / 'member_00.model'], device='cpu', dtype='float32')
        self.forces = MaceForces(self._models)

    def evaluate(self, frames: Configurations) -> Evaluation:
        """Return what the model says of frames."""
        from aiida_mlipal.runners.committee import evaluate

        return evaluate(frames, self._models, batch_atoms=256)
