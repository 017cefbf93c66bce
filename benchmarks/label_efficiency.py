"""How many labels each strategy of selection needs, against random picks: on stationary pools and in closed loops.

    python benchmarks/label_efficiency.py                     # all strategies, 5 seeds
    python benchmarks/label_efficiency.py --quick             # few strategies, 2 seeds, no MACE: under 10 minutes
    python benchmarks/label_efficiency.py --only li --seeds 1 # a part; parts are kept in --results and put together

Pools: silicon and lithium (public data: github.com/materialsvirtuallab/mlearn, `data/Si` and `data/Li`; Zuo et al., J.
Phys. Chem. A 124, 731 (2020)), as extended XYZ with `REF_energy`, `REF_forces` and `group`. 30 % of each group are the
test set, another draw with each seed; the rest is the pool, of which a few random frames are the start. Selection is
the strategies of a campaign, on the model's own descriptors and uncertainties, one batch after the other. Closed loops:
iterations of a campaign, see `_closed_loops.py`; systems and their test sets: see `_systems.py`. The model is the one
of `_surrogate.py`, trained within a second, so that all strategies, seeds and batches can be compared, and in the loop
`copper_mace` a small MACE model.

Errors are those of forces: `mean` the RMSE per component, `tail` the 95th percentile over atoms, `worst group` the
largest RMSE of a group of test frames. `ratio` is the number of labels that random picks need for a level over what the
strategy needs, on curves that are root mean squares over the seeds; its interval (two-sided, 90 %) is a bootstrap over
the seeds, in pairs. The closing figures are medians over seeds and systems of ratios seed by seed, of the default
strategy.

Levels of the pools are fixed below: they came from runs of random picks alone, with seeds not used here. Closed
loops have none that somebody chose. All arms that explore have the same budget, and two of them are compared at the
lowest error that both reach within it, as `launch --control` compares: the level at which the arm that does worse ends.
So a saving up to the whole budget over the first labels can be seen, and a loss as well. The aim of a third of the
labels (a ratio of 3) was fixed before. In an arm that explores, all labels count, those of its random stream included,
on which nobody trains; random frames of plain dynamics of the teacher (`300 K`) are all trained on, and four times as
many are labelled. Where these end above the level of default and random picks all the same, the figure is a bound: all
of them over what the default needed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from _closed_loops import PLAIN, run_loop
from _label_runs import METRICS, Curve
from _mace_learner import MaceLearner
from _pools import SIZES, files, load_pool, run_pool
from _scratch_profile import machine
from _surrogate_learner import Describer, SurrogateLearner
from _systems import SYSTEMS

from aiida_mlipal.science.learning_curves import LearningCurve, Saving, label_saving, labels_needed
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.strategies.pick import STRATEGIES

DEFAULT = SelectionSettings().method
POOLS, LOOPS, MACE_LOOPS = ('si', 'li'), ('butane', 'copper'), ('copper_mace',)
#: eV/Å: for each pool the levels of `mean`, `tail` and `worst group` at which labels are counted.
LEVELS = {'si': (0.145, 0.29, 0.20), 'li': (0.0165, 0.031, 0.018)}
#: The budget of a closed loop: rounds after the first training.
ROUNDS = {'butane': 6, 'copper': 6, 'copper_mace': 4}
QUICK_ROUNDS = 3
#: What `--quick` compares.
QUICK = ('random', DEFAULT, 'top_uncertainty')
#: The arms of closed loops, the most wanted first. All frames of a loop have the same size, so that a strategy that
#: looks at the cost has nothing to see.
LOOP_ARMS = ('random', DEFAULT, PLAIN, *(name for name in STRATEGIES if name not in ('random', DEFAULT, 'cost_aware')))
MACE_ARMS = LOOP_ARMS[:3]

Runs = dict[str, dict[str, dict[str, Any]]]  #: system -> strategy -> seed -> the curve


@lru_cache
def runner(name: str, data: Path, quick: bool) -> Callable[[str, int], Curve]:
    """Return what runs one strategy with one seed on a system, which is set up once."""
    if name in POOLS:
        basis, frames = load_pool(data, name)
        sizes = SIZES[:9] if quick else SIZES
        return lambda strategy, seed: run_pool(basis, frames, strategy, seed, sizes)
    system = SYSTEMS[name.removesuffix('_mace')](quick)
    n_rounds = QUICK_ROUNDS if quick else ROUNDS[name]
    if name in LOOPS:
        describe = Describer(system)
        return lambda strategy, seed: run_loop(SurrogateLearner(describe), system, strategy, seed, n_rounds)

    def with_mace(strategy: str, seed: int) -> Curve:
        with tempfile.TemporaryDirectory() as folder:
            return run_loop(MaceLearner(Path(folder), system, seed), system, strategy, seed, n_rounds)

    return with_mace


def one(name: str, strategy: str, seed: int, data: Path, quick: bool) -> dict[str, Any]:
    """Run one strategy with one seed."""
    import torch

    torch.set_num_threads(1)
    work, start = runner(name, data, quick), time.perf_counter()
    curve = work(strategy, seed)
    return {'n_labels': curve.n_labels, 'errors': curve.errors, 'wall_s': time.perf_counter() - start}


def run(arguments: argparse.Namespace) -> Runs:
    """Run what is not there yet, and keep each curve as soon as it is there."""
    runs: Runs = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    work = []
    for name in arguments.only:
        known = STRATEGIES if name in POOLS else LOOP_ARMS if name in LOOPS else MACE_ARMS
        wanted = [way for way in known if arguments.strategies is None or way in (*arguments.strategies, PLAIN)]
        done = runs.setdefault(name, {})
        work += [(name, way, seed) for way in wanted for seed in arguments.seeds if str(seed) not in done.get(way, {})]
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context('spawn')) as pool:
        tasks = {pool.submit(one, *item, arguments.data, arguments.quick): item for item in work}
        for task in as_completed(tasks):
            name, strategy, seed = tasks[task]
            found = task.result()
            runs[name].setdefault(strategy, {})[str(seed)] = found
            arguments.results.write_text(json.dumps(runs))
            tails = ' '.join(f'{errors[1]:.3f}' for errors in found['errors'])
            labels = f'{found["n_labels"][0]} to {found["n_labels"][-1]} labels'
            print(f'{name} {strategy} seed {seed}: {found["wall_s"]:.0f} s, {labels}, tail {tails}', flush=True)
    return runs


def curves(found: dict[str, Any], metric: int, seeds: list[str]) -> LearningCurve:
    """Return the errors of several seeds as one curve, cut to the points that all have."""
    n_points = min(len(found[seed]['n_labels']) for seed in seeds)
    square = np.array([[error[metric] ** 2 for error in found[seed]['errors'][:n_points]] for seed in seeds]).T
    n_labels = np.mean([found[seed]['n_labels'][:n_points] for seed in seeds], axis=0)
    return LearningCurve(n_labels, square)


def savings(runs: Runs, name: str, metric: int, strategy: str, reference: str) -> tuple[Saving, list[float]]:
    """Return the saving over all seeds that both have, and the ratio of each seed."""
    seeds = sorted(set(runs[name][strategy]) & set(runs[name][reference]), key=int)
    options: dict[str, Any] = {'target': LEVELS[name][metric] if name in LEVELS else None, 'seed': 1}

    def of(chosen: list[str]) -> Saving:
        pair = (curves(runs[name][way], metric, chosen) for way in (strategy, reference))
        return label_saving(*pair, weights=np.ones(len(chosen)), clusters=np.arange(len(chosen)), **options)

    return of(seeds), [of([seed]).ratio for seed in seeds]


def over_plain(runs: Runs, name: str, metric: int) -> list[tuple[float, bool]]:
    """Return, seed by seed, labels of plain dynamics over those of the default, and whether that is only a bound.

    The level is the one at which default and random picks are compared.
    """
    ratios = []
    for seed in sorted(set.intersection(*(set(runs[name][way]) for way in (DEFAULT, 'random', PLAIN))), key=int):
        found = {way: curves(runs[name][way], metric, [seed]) for way in (DEFAULT, 'random', PLAIN)}
        pair = (found[DEFAULT], found['random'])
        saving = label_saving(*pair, weights=np.ones(1), clusters=np.zeros(1), seed=1)
        plain = found[PLAIN]
        needed = labels_needed(plain.n_labels, plain.rmse(np.ones(1)), saving.target)
        is_bound = bool(np.isinf(needed))
        ratios.append((float(plain.n_labels[-1] if is_bound else needed) / saving.n_strategy, is_bound))
    return ratios


def report(runs: Runs) -> None:
    """Print the table and the closing figures."""
    print(
        f'{"system":11s} {"error":11s} {"level":>7s} {"strategy":16s} {"labels":>7s} {"random":>7s}  '
        f'{"ratio (90 %)":20s}  error at the end, and of random picks'
    )
    for name in runs:
        for metric, what in enumerate(METRICS):
            for strategy in (way for way in runs[name] if way != 'random'):
                saving, _ = savings(runs, name, metric, strategy, 'random')
                last = [
                    curves(runs[name][way], metric, list(runs[name][way])).rmse(np.ones(len(runs[name][way])))[-1]
                    for way in (strategy, 'random')
                ]
                print(
                    f'{name:11s} {what:11s} {saving.target:7.4g} {strategy:16s} {saving.n_strategy:7.1f} '
                    f'{saving.n_reference:7.1f}  {f"{saving.ratio:.2f} ({saving.low:.2f} to {saving.high:.2f})":20s}  '
                    f'{last[0]:.4g} {last[1]:.4g}{" <- default" if strategy == DEFAULT else ""}'
                )
    for name in (name for name in POOLS if name in runs):
        saving, _ = savings(runs, name, 0, DEFAULT, 'random')
        print(f'RESULT pool_{name}_upper_bound {1 / saving.low:.3f} 1')  # one-sided 95 %, labels default over random
    for result, systems, metric in (
        ('pool_mean_saving', POOLS, 0),
        ('pool_tail_saving', POOLS, 1),
        ('closed_loop_tail_saving', LOOPS, 1),
        *((f'closed_loop_tail_saving_{name}', (name,), 1) for name in (*LOOPS, *MACE_LOOPS)),
    ):
        found = [
            ratio
            for name in systems
            if {DEFAULT, 'random'} <= set(runs.get(name, {}))
            for ratio in savings(runs, name, metric, DEFAULT, 'random')[1]
        ]
        close(result, found)
    for result, systems in (('', LOOPS), *((f'_{name}', (name,)) for name in (*LOOPS, *MACE_LOOPS))):
        ratios = [
            ratio
            for name in systems
            if {DEFAULT, 'random', PLAIN} <= set(runs.get(name, {}))
            for ratio in over_plain(runs, name, 1)
        ]
        n_bounds = sum(is_bound for _, is_bound in ratios)
        close(f'closed_loop_tail_saving_over_300K{result}', [ratio for ratio, _ in ratios], f'{n_bounds} are bounds')


def close(result: str, ratios: list[float], note: str = '') -> None:
    """Print the median of ratios, and what it is the median of."""
    if ratios:
        known = [ratio for ratio in ratios if not np.isnan(ratio)]
        listed = ', '.join(f'{ratio:.2f}' for ratio in ratios)
        print(f'{result}: {listed}{f" ({note})" if note else ""}')
        print(f'RESULT {result} {statistics.median(known) if known else float("nan"):.3f} 1')


def draw(runs: Runs, folder: Path) -> None:
    """Write a figure for each system: errors against labels, the geometric mean of the seeds and their range."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    folder.mkdir(parents=True, exist_ok=True)
    for name, found in runs.items():
        figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), layout='constrained')
        for metric, axis in enumerate(axes):
            for index, (strategy, seeds) in enumerate(found.items()):
                curve = curves(seeds, metric, list(seeds))
                errors = np.sqrt(curve.square_errors)
                colour = 'black' if strategy == 'random' else 'grey' if strategy == PLAIN else f'C{index}'
                style = '--' if strategy == PLAIN else '-'
                axis.plot(curve.n_labels, np.exp(np.log(errors).mean(axis=1)), color=colour, label=strategy, ls=style)
                if strategy in ('random', DEFAULT, PLAIN):
                    axis.fill_between(
                        curve.n_labels, errors.min(axis=1), errors.max(axis=1), color=colour, alpha=0.15, lw=0
                    )
            if name in LEVELS:
                axis.axhline(LEVELS[name][metric], color='black', lw=0.8, ls=':')
            axis.set(xscale='log', yscale='log', xlabel='labels', ylabel=f'{METRICS[metric]} force error (eV/Å)')
            for ticks in (axis.xaxis, axis.yaxis):
                ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ticks.set_major_formatter('{x:g}')
                ticks.set_minor_formatter(NullFormatter())
        axes[0].legend(fontsize=8, title=name)
        figure.savefig(folder / f'label_efficiency_{name}.png', dpi=110)
        pyplot.close(figure)


def main() -> None:
    """Run, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    parser.add_argument('--data', type=Path, default=shared, help='folder of mlearn-{si,li}-{training,test}.extxyz')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3, 4, 5])
    systems = (*POOLS, *LOOPS, *MACE_LOOPS)
    parser.add_argument('--only', nargs='+', choices=systems, help='[default: all; with --quick, not MACE]')
    parser.add_argument('--strategies', nargs='+', choices=STRATEGIES, help='[default: all]')
    parser.add_argument('--results', type=Path, help='file of finished runs [default: in --figures]')
    parser.add_argument('--figures', type=Path, default=Path('label_efficiency'), help='folder for figures')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, one core each')
    parser.add_argument('--quick', action='store_true', help=f'{", ".join(QUICK)}, 2 seeds, short')
    arguments = parser.parse_args()
    arguments.only = arguments.only or (systems[:-1] if arguments.quick else systems)
    if arguments.quick:
        arguments.seeds, arguments.strategies = arguments.seeds[:2], QUICK
    for name in sorted(set(arguments.only) & set(POOLS)):
        files(arguments.data, name)  # missing ones are told before hours have passed
    arguments.figures.mkdir(parents=True, exist_ok=True)
    arguments.results = arguments.results or arguments.figures / f'runs{"_quick" if arguments.quick else ""}.json'
    runs = run(arguments)
    print(machine())
    report(runs)
    draw(runs, arguments.figures)


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    main()
