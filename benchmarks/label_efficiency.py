"""How many labels each strategy of selection needs, against random picks: on stationary pools and in closed loops.

    python benchmarks/label_efficiency.py                     # all strategies, 5 seeds
    python benchmarks/label_efficiency.py --quick             # few strategies, 2 seeds: under 10 minutes
    python benchmarks/label_efficiency.py --only li --seeds 1 # a part; parts are kept in --results and put together

Pools: silicon and lithium (public data: github.com/materialsvirtuallab/mlearn, `data/Si` and `data/Li`; Zuo et al., J.
Phys. Chem. A 124, 731 (2020)), as extended XYZ with `REF_energy`, `REF_forces` and `group`. 30 % of each group are the
test set, another draw with each seed; the rest is the pool, of which a few random frames are the start. Closed loops:
see `_closed_loops.py`. The model is the one of `_surrogate.py`, not MACE: it is trained within a second, so that all
strategies, seeds and batches can be compared. Selection is the campaign's own code, on the model's own descriptors and
uncertainties, one batch after the other; nothing of an arm's labels is random but what a strategy draws at random.

Errors are those of forces: `mean` the RMSE per component, `tail` the 95th percentile over atoms, `worst group` the
largest RMSE of a group of test frames. The error levels below are fixed: they came from runs of random picks alone,
with seeds that are not used here (closed loops: on the smaller test sets of `--quick`). `ratio` is the number of labels
that random picks need for a level over what the strategy needs, on curves that are root mean squares over the seeds;
its interval (two-sided, 90 %) is a bootstrap over the seeds, in pairs. The closing figures are medians over seeds and
systems of ratios seed by seed, of the default strategy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _closed_loops import prepare, run_loop
from _label_runs import METRICS, Curve
from _pools import SIZES, load_pool, run_pool
from _scratch_profile import machine

from aiida_mlipal.science.learning_curves import LearningCurve, Saving, label_saving
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.strategies.pick import STRATEGIES

DEFAULT = SelectionSettings().method
POOLS, LOOPS = ('si', 'li'), ('butane', 'copper')
#: eV/Å: for each system the levels of `mean`, `tail` and `worst group` at which labels are counted.
LEVELS: dict[str, tuple[float, float, float]] = {
    'si': (0.145, 0.29, 0.20),
    'li': (0.0165, 0.031, 0.018),
    'butane': (0.1, 0.2, 0.11),
    'copper': (0.05, 0.06, 0.08),
}
PLAIN = '300 K'  #: random frames of plain dynamics of the teacher
#: What `--quick` compares.
QUICK = ('random', DEFAULT, 'top_uncertainty')
#: Frames of a closed loop all have the same size there, so that a strategy that looks at the cost has nothing to see.
LOOP_STRATEGIES = (PLAIN, *(name for name in STRATEGIES if name != 'cost_aware'))

Runs = dict[str, dict[str, dict[str, Any]]]  #: system -> strategy -> seed -> the curve


def runner(name: str, arguments: argparse.Namespace) -> Callable[[str, int], Curve]:
    """Return what runs one strategy with one seed on a system, which is set up once."""
    if name in POOLS:
        basis, frames = load_pool(arguments.data, name)
        sizes = SIZES[:9] if arguments.quick else SIZES
        return lambda strategy, seed: run_pool(basis, frames, strategy, seed, sizes)
    basis, system, test = prepare(name, arguments.quick)
    n_rounds = 4 if arguments.quick else 8
    return lambda strategy, seed: run_loop(basis, system, test, strategy, seed, n_rounds)


def run(arguments: argparse.Namespace) -> Runs:
    """Run what is not there yet, and keep each curve as soon as it is there."""
    runs: Runs = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in arguments.only:
        known = STRATEGIES if name in POOLS else LOOP_STRATEGIES
        strategies = [way for way in known if arguments.strategies is None or way in (*arguments.strategies, PLAIN)]
        work = [
            (strategy, seed)
            for seed in arguments.seeds
            for strategy in strategies
            if str(seed) not in runs.setdefault(name, {}).setdefault(strategy, {})
        ]
        one = runner(name, arguments) if work else None
        for strategy, seed in work:
            start = time.process_time()
            assert one is not None
            curve = one(strategy, seed)
            seconds = time.process_time() - start
            runs[name][strategy][str(seed)] = {'n_labels': curve.n_labels, 'errors': curve.errors, 'cpu_s': seconds}
            arguments.results.write_text(json.dumps(runs))
            tails = ' '.join(f'{found[1]:.3f}' for found in curve.errors)
            print(f'{name} {strategy} seed {seed}: {seconds:.0f} CPU s, tail {tails}', flush=True)
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
    options: dict[str, Any] = {'target': LEVELS[name][metric], 'seed': 1}

    def of(chosen: list[str]) -> Saving:
        pair = (curves(runs[name][way], metric, chosen) for way in (strategy, reference))
        return label_saving(*pair, weights=np.ones(len(chosen)), clusters=np.arange(len(chosen)), **options)

    return of(seeds), [of([seed]).ratio for seed in seeds]


def report(runs: Runs) -> None:
    """Print the table and the closing figures."""
    print(f'{"system":8s} {"error":12s} {"level":>7s} {"strategy":18s} {"labels":>7s} {"random":>7s}  ratio (90 %)')
    for name in runs:
        for metric, what in enumerate(METRICS):
            for strategy in (way for way in runs[name] if way != 'random'):
                saving, _ = savings(runs, name, metric, strategy, 'random')
                mark = ' <- default' if strategy == DEFAULT else ''
                print(
                    f'{name:8s} {what:12s} {saving.target:7.4g} {strategy:18s} {saving.n_strategy:7.1f} '
                    f'{saving.n_reference:7.1f}  {saving.ratio:.2f} ({saving.low:.2f} to {saving.high:.2f}){mark}'
                )
    for name in (name for name in POOLS if name in runs):
        saving, _ = savings(runs, name, 0, DEFAULT, 'random')
        print(f'RESULT pool_{name}_upper_bound {1 / saving.low:.3f} 1')  # one-sided 95 %, labels default over random
    for result, systems, metric, reference in (
        ('pool_mean_saving', POOLS, 0, 'random'),
        ('pool_tail_saving', POOLS, 1, 'random'),
        ('closed_loop_tail_saving', LOOPS, 1, 'random'),
        ('closed_loop_tail_saving_over_300K', LOOPS, 1, PLAIN),
    ):
        found = [
            ratio
            for name in systems
            if name in runs and {DEFAULT, reference} <= set(runs[name])
            for ratio in savings(runs, name, metric, DEFAULT, reference)[1]
        ]
        if found:
            known = [ratio for ratio in found if not np.isnan(ratio)]
            value = statistics.median(known) if known else float('nan')
            print(f'{result}: {", ".join(f"{ratio:.2f}" for ratio in found)} (nan: neither reached the level)')
            print(f'RESULT {result} {value:.3f} 1')


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
    parser.add_argument('--only', nargs='+', choices=(*POOLS, *LOOPS), default=(*POOLS, *LOOPS))
    parser.add_argument('--strategies', nargs='+', choices=STRATEGIES, help='[default: all]')
    parser.add_argument('--results', type=Path, help='file of finished runs [default: in --figures]')
    parser.add_argument('--figures', type=Path, default=Path('label_efficiency'), help='folder for figures')
    parser.add_argument('--quick', action='store_true', help=f'{", ".join(QUICK)}, 2 seeds, short')
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.strategies = arguments.seeds[:2], QUICK
    arguments.figures.mkdir(parents=True, exist_ok=True)
    arguments.results = arguments.results or arguments.figures / f'runs{"_quick" if arguments.quick else ""}.json'
    runs = run(arguments)
    print(machine())
    report(runs)
    draw(runs, arguments.figures)


if __name__ == '__main__':
    main()
