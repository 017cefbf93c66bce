"""The same decision to the last bit with other kernels of the linear algebra library, and other numbers of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from aiida_mlipal.science.strategies.pick import STRATEGIES

#: Degenerate crystal frames: descriptors are signed permutations of a few rows, as symmetry-equivalent displacements
#: are, with the noise of single precision; every score is tied many times over. Larger pools than blocks of rows.
SCRIPT = """
import hashlib, json, sys
import numpy as np
from ase.build import bulk
from threadpoolctl import threadpool_info
from aiida_mlipal.science.calibration import Thresholds
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.selection import decide
from aiida_mlipal.science.selection_settings import SelectionSettings

rng = np.random.default_rng(7)
n, width = 1500, 96
base = rng.normal(size=(25, width))
rows = np.array([rng.choice([-1, 1]) * np.roll(base[rng.integers(25)], 8 * rng.integers(12)) for _ in range(n)])
rows = np.float64(np.float32(rows * (1 + 1e-8 * rng.normal(size=rows.shape))))
frames = []
for _ in range(n):
    atoms = bulk('Si')
    atoms.positions[1] += rng.choice([-0.1, 0.1], 3) + 1e-12 * rng.normal(size=3)
    frames.append(atoms)
pool = Configurations.from_atoms(frames, role='candidate', trajectory=[f'r{i % 5}' for i in range(n)])
spread = np.repeat(rng.choice([0.1, 0.2, 0.4], n), 2)
evaluation = Evaluation(
    frame_id=pool.frame_id, n_atoms=pool.n_atoms, energy=np.zeros(n), forces=np.zeros((2 * n, 3)),
    stress=np.zeros((n, 6)), stress_std=np.zeros(n), energy_std=np.zeros(n), forces_std=spread,
    member_energy=np.zeros((n, 4)),
    descriptors=rows,
)
reference = np.float64(np.float32(rng.normal(size=(300, width))))
found = {}
for method in sys.argv[1:]:
    decision = decide(
        pool, evaluation, reference, seed=3, iteration=1,
        settings=SelectionSettings(method=method, first_method=method, n_labels=60),
        thresholds=Thresholds(0.05, 5.0), calibrated=1.7 * evaluation.max_forces_std,
        costs=rng.choice([1.0, 3.0], n),
    )
    assert decision.n_selected == 60, decision.counts
    digest = hashlib.sha256()
    for column in decision.columns().values():
        digest.update(column.tobytes())
    found[method] = digest.hexdigest()
print(json.dumps({'kernels': sorted({item['architecture'] for item in threadpool_info() if 'architecture' in item}),
                  'found': found}))
"""


def decide_with(**environment: str) -> tuple[list[str], dict[str, str]]:
    """Return the kernels that a process of its own used, and the digest of the decision of each strategy."""
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT, *STRATEGIES], env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    return content['kernels'], content['found']


def test_decisions_do_not_depend_on_the_kernel():
    kernels, first = decide_with(OPENBLAS_CORETYPE='Haswell', OPENBLAS_NUM_THREADS='1')
    others, second = decide_with(OPENBLAS_CORETYPE='Prescott', OPENBLAS_NUM_THREADS='2')
    if not kernels:
        pytest.skip('numpy is not linked with OpenBLAS, whose kernel can be chosen')
    assert kernels != others
    assert len(set(first.values())) == len(STRATEGIES)
    assert first == second
