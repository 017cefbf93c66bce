"""Pools of `label_efficiency.py`: all candidates are there from the beginning, only their labels are bought."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from _label_runs import Curve, Frames, Learner, described, errors
from _surrogate import Basis
from ase.io import read

#: Start and batches: the numbers of labels at which errors are taken.
SIZES = (4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)
TEST_SHARE = 0.3
CUTOFFS = {'si': 5.0, 'li': 5.5}
N_HIDDEN = 512


def files(folder: Path, name: str) -> list[Path]:
    """Return the files of one of the public sets; exit if one is missing."""
    paths = [folder / f'mlearn-{name}-{part}.extxyz' for part in ('training', 'test')]
    for path in paths:
        if not path.exists():
            sys.exit(f'{path} is missing: make it from the public data (see --help), or say where it is with --data.')
    return paths


def load_pool(folder: Path, name: str) -> tuple[Basis, Frames]:
    """Return all frames of one of the public sets, with labels and features that are the same for all runs."""
    atoms: list[Any] = [item for path in files(folder, name) for item in read(path, ':')]
    basis = Basis(sorted({int(number) for item in atoms for number in item.numbers}), CUTOFFS[name], N_HIDDEN, seed=0)
    basis.scale_to(atoms[::4])
    frames = described(basis, atoms, [item.info['group'] for item in atoms])
    frames.energy = [float(item.info['REF_energy']) for item in atoms]
    frames.forces = [item.arrays['REF_forces'] for item in atoms]
    return basis, frames


def split(frames: Frames, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of pool and test set, the latter with its share of every group."""
    rng = np.random.default_rng([seed, 1])
    test = []
    for group in np.unique(frames.group):
        rows = rng.permutation(np.flatnonzero(frames.group == group))
        test += rows[: max(2, round(TEST_SHARE * len(rows)))].tolist()
    rest = rng.permutation(np.setdiff1d(np.arange(len(frames)), test))
    return rest, np.array(sorted(test))


def run_pool(basis: Basis, frames: Frames, strategy: str, seed: int, sizes: tuple[int, ...] = SIZES) -> Curve:
    """Start with a few random frames, the same for all strategies, and buy batches."""
    pool, rows = split(frames, seed)
    test, learner, curve = frames.take(rows), Learner(basis), Curve([], [])
    chosen, pool = pool[: sizes[0]], pool[sizes[0] :]
    for round_, size in enumerate(sizes):
        if round_:
            picks = learner.choose(strategy, frames.take(pool), size - sizes[round_ - 1], (seed, round_))
            chosen, pool = pool[picks], np.delete(pool, picks)
        curve.add(size, errors(learner.learn(frames.take(chosen)), test))
    return curve
