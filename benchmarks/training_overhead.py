"""What the plugin adds to the wall time of a training, against a bare ``mace_run_train`` in the same run.

    python benchmarks/training_overhead.py      # three pairs, eight minutes on a machine that does nothing else
    python benchmarks/training_overhead.py --cpu      # the job's program alone, CPU seconds: where others work, too
    python benchmarks/training_overhead.py --device cuda    # the job's program alone, wall seconds on a GPU
    python benchmarks/training_overhead.py --quick    # few epochs, one pair

Copper (cells of 32 rattled atoms, labelled with EMT). Plugin and bare run train the same frames with the same options
and seed on one core, once for one epoch and once for many; which of the two goes first alternates. The wall time of the
plugin, from the submission to the stored model, is then

    ratio x wall time of the bare run + constant

with the ratio from the difference between many epochs and one, and the constant from the runs of one epoch: the daemon,
the upload, the errors of the model on all frames, the nodes. The weights of both are compared, too: they are equal.

On a machine that others use, wall times say little. With ``--cpu`` the program of the job runs without AiiDA around it,
and its CPU seconds are held against those of the bare run in the same way. On a GPU sums have no fixed order, so
weights are not equal to the last bit; the errors on the validation frames that both end with are printed instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from _scratch_profile import machine, rattled, scratch_profile, wait


def dataset(n_frames: int, seed: int) -> Any:
    """Return labelled copper cells and an isolated atom."""
    from ase import Atoms
    from ase.build import bulk
    from ase.calculators.emt import EMT

    from aiida_mlipal.science.configurations import Configurations

    frames = rattled(bulk('Cu', cubic=True) * (2, 2, 2), n_frames, seed)
    frames.append(Atoms('Cu', cell=[12.0, 12.2, 12.4], pbc=True))
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.get_stress()
    roles = ['train'] * n_frames + ['isolated_atom']
    return Configurations.from_atoms(frames, labels=True, role=roles)


def plugin_run(frames: Any, settings: dict[str, Any], folder: Path) -> tuple[tuple[float], Path]:
    """Return the wall seconds of a job through the daemon, and a copy of the model in ``folder``."""
    from aiida import orm
    from aiida.engine import submit
    from aiida.plugins import CalculationFactory

    from aiida_mlipal.data.configurations import ConfigurationsData

    builder = CalculationFactory('mlipal.mace.train').get_builder()
    builder.code = orm.load_code('python@localhost')
    builder.dataset = ConfigurationsData(frames, level_of_theory={'code': 'ase', 'calculator': 'emt'})
    builder.settings = orm.Dict(settings)
    builder.metadata.options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
    start = time.time()
    node = submit(builder)
    wait(node)
    wall = time.time() - start
    if not node.is_finished_ok:
        sys.exit(f'training failed: {node.exit_message}')
    model = node.outputs.models['member_00'].base.repository
    (name,) = [entry for entry in model.list_object_names() if entry.endswith('.model')]
    (folder / name).write_bytes(model.get_object_content(name, 'rb'))
    return (wall,), folder / name


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of a program."""
    start = time.time()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f'{" ".join(command[:2])} failed in {folder}')
    return time.time() - start, usage.ru_utime + usage.ru_stime


def job_alone(frames: Any, settings: dict[str, Any], folder: Path) -> tuple[tuple[float, float], Path]:
    """Return wall and CPU seconds of the job's program, without AiiDA around it, and the model."""
    from aiida_mlipal.calculations.bundle import build

    frames.save(folder / 'dataset.npz')
    (folder / 'settings.json').write_text(json.dumps(settings), encoding='utf-8')
    (folder / 'runner.zip').write_bytes(build('train'))
    return timed([sys.executable, '-I', 'runner.zip'], folder), folder / 'member_00.model'


def bare_line(frames: Any, settings: dict[str, Any], folder: Path) -> list[str]:
    """Write the frames into ``folder``; return the arguments of ``mace_run_train`` there.

    It writes its checkpoints beside ``folder``.
    """
    from aiida_mlipal.runners.mace_cli import HeadFiles, arguments
    from aiida_mlipal.science.settings import from_dict
    from aiida_mlipal.science.training_data import head_data
    from aiida_mlipal.science.training_settings import TrainingSettings

    options = from_dict(TrainingSettings, settings)
    data = head_data(frames, {}, options)['Default']
    data.train.write_extxyz(folder / 'train.xyz')
    data.valid.write_extxyz(folder / 'valid.xyz')
    files = HeadFiles(train_file=Path('train.xyz'), valid_file=Path('valid.xyz'), n_train=len(data.train), e0s=data.e0s)
    return arguments(options, name='member_00', seed=options.seeds[0], heads={'Default': files})


def bare_run(frames: Any, settings: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of ``mace_run_train`` in ``folder``."""
    line = bare_line(frames, settings, folder)
    return timed([str(Path(sys.executable).parent / 'mace_run_train'), *line], folder)


def same_weights(first: Path, second: Path) -> bool:
    """Return whether two model files have the same weights, to the last bit."""
    import torch

    ours, bare = (torch.load(file, map_location='cpu', weights_only=False).state_dict() for file in (first, second))
    return ours.keys() == bare.keys() and all(torch.equal(ours[key], bare[key]) for key in ours)


def last_error(folder: Path) -> float:
    """Return the RMSE of the forces on the validation frames, eV/Å, after the last epoch of a training."""
    from aiida_mlipal.science.training_log import read_history

    (path,) = folder.glob('**/results/*_train.txt')
    return read_history(path.read_text(encoding='utf-8').splitlines())['Default']['force_rmse'][-1]


def measure(
    frames: Any, settings: dict[str, Any], *, alone: bool, cpu: bool, plugin_first: bool
) -> tuple[float, float]:
    """Return the seconds of a training with the plugin and of the bare one.

    :param alone: without AiiDA.
    :param cpu: seconds of the CPU, not of the wall.
    """
    with tempfile.TemporaryDirectory() as name:
        job, bare = Path(name, 'job'), Path(name, 'bare', 'member_00')
        for folder in (job, bare):
            folder.mkdir(parents=True)
        if not plugin_first:
            theirs = bare_run(frames, settings, bare)
        ours, model = (job_alone if alone else plugin_run)(frames, settings, job)
        if plugin_first:
            theirs = bare_run(frames, settings, bare)
        if settings['device'] == 'cuda':
            errors = [last_error(folder) for folder in (job, bare)]
            print(f'force errors: {errors[0]:.4f} and bare {errors[1]:.4f} eV/Å')
        elif not same_weights(model, bare / 'member_00.model'):
            sys.exit('plugin and bare run differ in their weights')
        return ours[cpu], theirs[cpu]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--epochs', type=int, default=100, help='of the long runs')
    parser.add_argument('--pairs', type=int, default=3, help='of plugin and bare run; figures are medians of them')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--cpu', action='store_true', help='CPU seconds, without AiiDA')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='`cuda`: without AiiDA')
    parser.add_argument('--quick', action='store_true', help='25 epochs, one pair')
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.pairs = 25, 1

    ratios, constants = [], []
    on_gpu = arguments.device == 'cuda'
    how = {'alone': arguments.cpu or on_gpu, 'cpu': arguments.cpu}
    with nullcontext() if how['alone'] else scratch_profile():
        for pair in range(arguments.pairs):
            frames = dataset(arguments.frames, arguments.seed + pair)
            settings = {'seeds': [arguments.seed + pair], 'max_parallel': 1, 'device': arguments.device}
            one, many = (
                measure(frames, {**settings, 'max_num_epochs': epochs}, plugin_first=bool(pair % 2), **how)
                for epochs in (1, arguments.epochs)
            )
            ratios.append((many[0] - one[0]) / (many[1] - one[1]))
            constants.append(one[0] - one[1])
            print(
                f'pair {pair}: 1 epoch {one[0]:.1f} and bare {one[1]:.1f} s, {arguments.epochs} epochs {many[0]:.1f} '
                f'and {many[1]:.1f} s: ratio {ratios[-1]:.3f}, constant {constants[-1]:.1f} s',
                flush=True,
            )
    print(machine())
    equal = '' if on_gpu else '; all weights equal to the last bit'
    print(f'seeds: {arguments.seed}..{arguments.seed + arguments.pairs - 1}{equal}')
    for name, values in (('ratios', ratios), ('constants in s', constants)):
        print(f'{name}: {min(values):.3f} to {max(values):.3f}')
    kind = 'cpu' if arguments.cpu else 'gpu_wall' if on_gpu else 'wall'
    print(f'RESULT training_{kind}_ratio {statistics.median(ratios):.3f} 1')
    print(f'RESULT training_{kind}_constant {statistics.median(constants):.1f} s')


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    main()
