"""What the four uncertainties of a training cost, and how well they rank the errors of unseen frames.

    python benchmarks/training_uncertainty.py            # 3 seeds, half an hour on two quiet cores
    python benchmarks/training_uncertainty.py --quick    # one seed, fewer epochs: under 10 minutes
    python benchmarks/training_uncertainty.py --combine A.log B.log    # of what runs of some seeds each have printed

Silicon (public data: github.com/materialsvirtuallab/mlearn, `data/Si`; Zuo et al., J. Phys. Chem. A 124, 731 (2020)),
as extended XYZ with `REF_energy` and `REF_forces`. For each seed a number of training frames is drawn, and models are
trained on them with the job's own program:

    none       one model
    ensemble   four, at the same frames and epochs
    heads      the first of them, with readouts that are fitted afterwards
    llpr       the same, with its last-layer prediction rigidity

`heads` and `llpr` train the model that `none` trains, to the last bit, and look at its last layer afterwards. So it is
trained once; then the step that such a job does besides is timed on a copy of its model.

Cost: CPU seconds of the training, of that step and of the evaluation of all test frames, over those of the job `none`
alone. Rank correlations (Spearman) are those of the uncertainty and the root mean square error of the force on an
atom, over the atoms of all test frames, and of the largest of each in a frame, over the frames. Calibration is the root
mean square of errors over that of uncertainties: 1 is right, more is overconfident. `before` is over all test frames,
`after` is over every second one, with the factor that a campaign would have found on the others.

The figures that close the run are those of the better of `heads` and `llpr`: `loss` is how much lower its rank
correlation per atom is than the ensemble's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _scratch_profile import machine

N_MEMBERS = 4
CHEAP = ('heads', 'llpr')


@dataclass(frozen=True)
class Figures:
    """What one kind of uncertainty came to with one seed."""

    cost: float
    per_atom: float
    per_frame: float
    before: float
    after: float


def labelled(path: Path) -> list[Any]:
    """Return the frames of a file with their labels where ASE expects them."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import read

    if not path.exists():
        sys.exit(f'{path} is missing: make it from the public data (see --help), or say where it is with --data.')
    frames: list[Any] = read(path, ':')
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.info['REF_energy'], forces=atoms.arrays['REF_forces'])
    return frames


def train(folder: Path, frames: Any, settings: dict[str, Any]) -> float:
    """Train in ``folder`` with the program of the job; return its CPU seconds."""
    from aiida_mlipal.calculations.bundle import build

    folder.mkdir()
    frames.save(folder / 'dataset.npz')
    (folder / 'settings.json').write_text(json.dumps(settings), encoding='utf-8')
    (folder / 'runner.zip').write_bytes(build('train'))
    with (folder / 'runner.log').open('wb') as log:
        process = subprocess.Popen([sys.executable, 'runner.zip'], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(process.pid, 0)
    if status or not (folder / 'member_00.model').exists():
        sys.exit(f'a training failed:\n{(folder / "runner.log").read_text(encoding="utf-8")[-2000:]}')
    return usage.ru_utime + usage.ru_stime


def cpu(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work`` returns, and the CPU seconds that it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def quality(test: Any, evaluation: Any, cost: float) -> Figures:
    """Return how well an evaluation tells its own errors."""
    from scipy.stats import spearmanr

    from aiida_mlipal.science.calibration import calibrate

    error = np.sqrt(np.mean((evaluation.forces - test.forces) ** 2, axis=1))
    worst = np.maximum.reduceat(error, evaluation.offsets[:-1])

    def ratio(expected: Any, atoms: Any) -> float:
        return float(np.sqrt(np.mean(error[atoms] ** 2) / np.mean(expected[atoms] ** 2)))

    even = np.arange(len(test)) % 2 == 0
    roles = test.with_columns(role=np.where(even, 'calibration', 'test'))
    found = calibrate(roles, evaluation, lower_factor=1.0, upper_factor=2.0)
    assert found is not None
    return Figures(
        cost=cost,
        per_atom=float(spearmanr(evaluation.forces_std, error).statistic),
        per_frame=float(spearmanr(evaluation.max_forces_std, worst).statistic),
        before=ratio(evaluation.forces_std, slice(None)),
        after=ratio(found.error_map(evaluation.forces_std), np.repeat(~even, test.n_atoms)),
    )


def measure(training: list[Any], test: Any, seed: int, options: argparse.Namespace) -> dict[str, Figures]:
    """Train with one seed and return the figures of each kind of uncertainty."""
    import torch
    from ase.io import read

    from aiida_mlipal.runners.committee import evaluate, load_models
    from aiida_mlipal.runners.uncertainty import attach
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.science.training_settings import TrainingSettings

    torch.set_num_threads(1)
    drawn = np.random.default_rng(seed).permutation(len(training))[: options.frames]
    frames = Configurations.from_atoms([training[row] for row in drawn], labels=True, role='train')
    shared = {'e0s': 'least_squares', 'max_num_epochs': options.epochs, 'batch_size': 2, 'uncertainty': 'none'}
    seeds = [seed * N_MEMBERS + member for member in range(N_MEMBERS)]
    n_readouts = TrainingSettings(seeds=(0,)).n_readouts

    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(options.jobs) as pool:
        folders = [Path(root) / f'seed_{member}' for member in seeds]
        settings = [{**shared, 'seeds': [member]} for member in seeds]
        seconds = list(pool.map(train, folders, [frames] * N_MEMBERS, settings))

        def uncertain(files: list[Path]) -> tuple[Any, float]:
            models = load_models(files, device='cpu', dtype='float32')
            evaluate(test.take(np.arange(1)), models, batch_atoms=256)  # torch prepares itself in the first calls
            return cpu(lambda: evaluate(test, models, batch_atoms=256))

        evaluation, evaluating = uncertain([folder / 'member_00.model' for folder in folders])
        found = {'ensemble': quality(test, evaluation, (sum(seconds) + evaluating) / seconds[0])}
        first = folders[0]
        labels = [read(first / name, ':') for name in ('train.xyz', 'valid.xyz')]
        for kind in CHEAP:
            file = Path(root) / f'{kind}.model'
            shutil.copyfile(first / 'member_00.model', file)
            attach_now = _attacher(attach, file, labels, seeds[0], n_readouts if kind == 'heads' else None)
            report, attaching = cpu(attach_now)
            evaluation, evaluating = uncertain([file])
            found[kind] = quality(test, evaluation, (seconds[0] + attaching + evaluating) / seconds[0])
            print(f'  {kind}: training {seconds[0]:.0f} CPU s, fit {attaching:.1f}, test {evaluating:.1f}; {report}')
        rmse = float(np.sqrt(np.mean((evaluation.forces - test.forces) ** 2)))
        print(f'  force RMSE of the one model on the test frames {rmse:.3f} eV/Å', flush=True)
    return found


def _attacher(attach: Any, file: Path, labels: list[Any], seed: int, n_readouts: int | None) -> Callable[[], Any]:
    return lambda: attach(file, *labels, seed=seed, device='cpu', n_readouts=n_readouts)


def printed(log: Path) -> dict[int, dict[str, Figures]]:
    """Return the figures of a run by its seeds, from its output."""
    found: dict[int, dict[str, Figures]] = {}
    for line in log.read_text(encoding='utf-8').splitlines():
        if match := re.match(r'seed (\d+): ', line):
            run = found.setdefault(int(match[1]), {})
        elif match := re.match(r'  (\w+): Figures\((.*)\)', line):
            values = (item.split('=') for item in match[2].split(', '))
            run[match[1]] = Figures(**{name: float(value) for name, value in values})
    return found


def conclude(seeds: list[int], found: list[dict[str, Figures]]) -> None:
    """Print the closing figures."""
    print(machine())
    print(f'seeds: {seeds}; medians, smallest and largest; cost of `none`: 1')
    for kind in ('ensemble', *CHEAP):
        for name in Figures.__dataclass_fields__:
            values = [getattr(run[kind], name) for run in found]
            print(f'{kind} {name}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})')
    losses = {kind: statistics.median(run['ensemble'].per_atom - run[kind].per_atom for run in found) for kind in CHEAP}
    best = min(CHEAP, key=lambda kind: losses[kind])
    print(f'the better of both: {best}')
    print(f'RESULT cheap_uncertainty_cost {statistics.median(run[best].cost for run in found):.3f} 1')
    print(f'RESULT cheap_uncertainty_spearman_loss {losses[best]:.3f} 1')


def main() -> None:
    """Measure and print."""
    from aiida_mlipal.science.configurations import Configurations

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    parser.add_argument('--data', type=Path, default=shared, help='folder of mlearn-si-*.extxyz')
    parser.add_argument('--frames', type=int, default=32, help='to train and validate with')
    parser.add_argument('--epochs', type=int, default=60)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--jobs', type=int, default=2, help='trainings at a time, one core each')
    parser.add_argument('--combine', type=Path, nargs='+', help='print the closing figures of these outputs')
    parser.add_argument('--quick', action='store_true', help='the first seed, 40 epochs')
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs = arguments.seeds[:1], 40

    if arguments.combine:
        runs = {seed: figures for log in arguments.combine for seed, figures in printed(log).items()}
        conclude(list(runs), list(runs.values()))
        return
    training = labelled(arguments.data / 'mlearn-si-training.extxyz')
    test = Configurations.from_atoms(labelled(arguments.data / 'mlearn-si-test.extxyz'), labels=True, role='test')
    found = []
    for seed in arguments.seeds:
        print(f'seed {seed}: {arguments.frames} frames, {arguments.epochs} epochs', flush=True)
        found.append(measure(training, test, seed, arguments))
        for kind, figures in found[-1].items():
            print(f'  {kind}: {figures}', flush=True)

    conclude(arguments.seeds, found)


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    main()
