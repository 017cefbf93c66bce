"""Whether a GPU computes what the CPU does, and jobs on it survive what they survive on the CPU.

    python benchmarks/gpu_checks.py                          # all parts on the GPU, two minutes with 16 cores
    python benchmarks/gpu_checks.py forces trajectories      # some of them

`jobs`: two doctors at once, which lock the GPU and wait for each other. `forces`: forces and stresses of silicon in
single and in double precision against double precision on the CPU. `trajectories`: replicas alone, in a batch with a
neighbour that leaves, and on the CPU. `trainings`: a committee that is killed and goes on, against one that is not and
against the CPU; then uncertainties of a committee, `llpr` and `heads`, and all plans of an exploration, against those
of the CPU. `messages`: a training in one process under `torchrun` with NCCL. Double precision but for `forces`. A part
that breaks does not end the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from _jobs import finished, kill, new_folder, start, wait_for
from _parts import run_parts
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from exploration_throughput import random_model, silicon
from training_overhead import bare_line, dataset, timed

from aiida_mlipal.science.configurations import Configurations

SEED: Final = 3


def report(name: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f'RESULT gpu_{name} {value:.3g} {unit}', flush=True)


def largest(first: Any, second: Any) -> float:
    """Return the largest difference between two arrays; NaN if there is one in either."""
    return float(np.max(np.abs(np.asarray(first) - np.asarray(second)), initial=0.0))


def jobs(device: str) -> None:
    """Two jobs that want the GPU for themselves."""
    wants = {'MLIPAL_EXCLUSIVE_GPUS': '1'} if device == 'cuda' else {}
    folders = [new_folder(), new_folder()]
    begin = time.monotonic()
    running = [start('doctor', folder, {'device': device}, **wants) for folder in folders]
    results = [finished(job, folder) for job, folder in zip(running, folders, strict=True)]
    print(f'doctors: {results}')
    report('doctor_deviation', max(result['results']['deviation'] for result in results), 'eV/Å')
    report('lock_longest_wait', max(result.get('gpu_wait_s', 0.0) for result in results), 's')
    report('lock_time_of_both', time.monotonic() - begin, 's')


def _systems() -> list[Atoms]:
    """Return silicon of several sizes and periodicities."""
    slab = bulk('Si', cubic=True)
    slab.center(vacuum=6.0, axis=2)
    slab.pbc = [True, True, False]
    cluster = Atoms('Si5', molecule('CH4').positions * 2.1)
    frames = [silicon(16, 1), slab, silicon(64, 2), cluster, silicon(8, 3)]
    for index, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=index)
    return frames


def forces(device: str) -> None:
    """Energies, forces and stresses as explorations and evaluations get them."""
    from aiida_mlipal.runners.committee import evaluate
    from aiida_mlipal.runners.forces import MaceForces
    from aiida_mlipal.runners.systems import Systems
    from aiida_mlipal.runners.trajectory import replicas_at

    frames = Configurations.from_atoms(_systems())
    replicas = replicas_at(frames, 0, [300.0] * len(frames))
    found = {}
    for place in ('cpu', device):
        for dtype in ('float64', 'float32'):
            model = random_model(16, place)
            model = model.double() if dtype == 'float64' else model
            acting = MaceForces([model])
            some = acting(Systems(replicas, acting.device), stress=True)
            judged = evaluate(frames, [model], batch_atoms=64)
            periodic = frames.pbc.all(axis=1)
            found[place, dtype] = (
                some.energies.cpu().numpy() / frames.n_atoms,
                some.forces.cpu().numpy(),
                some.stresses.cpu().numpy()[periodic],
                judged.forces,
                judged.descriptors,
            )
    reference = found['cpu', 'float64']
    for (place, dtype), values in found.items():
        names = ('energies', 'forces', 'stresses', 'evaluated_forces', 'descriptors')
        for name, value, right in zip(names, values, reference, strict=True):
            error = np.linalg.norm(value - right) / np.linalg.norm(right)
            report(f'relative_error_{name}_{place}_{dtype}', float(error), '1')


def trajectories(device: str) -> None:
    """The same replica alone, beside others, and on the CPU; in a bath and under pressure."""
    from aiida_mlipal.runners.forces import MaceForces
    from aiida_mlipal.runners.motion.propagate import propagate
    from aiida_mlipal.runners.plans.dynamics import mover
    from aiida_mlipal.runners.trajectory import replicas_at
    from aiida_mlipal.science.exploration_settings import ExplorationSettings

    broken = silicon(8, 9)
    broken.positions[1] = broken.positions[0] + 0.4
    starts = Configurations.from_atoms([silicon(16, 1), broken, silicon(32, 2), silicon(8, 4)])
    for ensemble in ('nvt', 'nvt_nose_hoover', 'npt_full_cell'):
        plan = {'kind': 'dynamics', 'ensemble': ensemble, 'temperatures': [600.0], 'n_replicas_per_temperature': 8}
        settings = ExplorationSettings(seed=SEED, n_steps=40, stride=10, plans=[plan])
        (plan,) = settings.read_plans()
        replicas = replicas_at(starts, 0, [600.0] * 8, [0.0] * 8)

        def positions(some: Any, place: str, plan: Any = plan, settings: Any = settings) -> Any:
            move = mover(plan, MaceForces([random_model(16, place).double()]), settings)
            done = propagate(some, move, plan, settings, max_atoms=1000)
            return [np.array([frame.positions for frame in item.frames]) for item in done]

        batch, again = positions(replicas, device), positions(replicas, device)
        alone = [positions([replica], device)[0] for replica in replicas[:4]]
        on_cpu = positions(replicas[:4], 'cpu')
        assert [len(item) for item in batch] == [4, 0, 4, 4] * 2
        for name, others in (('alone', alone), ('cpu', on_cpu), ('again', again)):
            difference = max(largest(one, other) for one, other in zip(batch[: len(others)], others, strict=True))
            report(f'trajectory_{ensemble}_{name}', difference, 'Å')


def _losses(folder: Path) -> list[float]:
    from aiida_mlipal.science.training_log import read_history

    (path,) = folder.glob('**/results/*_train.txt')
    return read_history(path.read_text(encoding='utf-8').splitlines())['Default']['loss']


def _weights(folder: Path) -> Any:
    import torch

    state = torch.load(folder / 'member_00.model', map_location='cpu', weights_only=False).state_dict()
    return np.concatenate([value.numpy().ravel() for value in state.values() if value.is_floating_point()])


def trainings(device: str) -> None:
    """Trainings side by side, each in double precision; what they leave is evaluated and explored with."""
    base = {'max_num_epochs': 60, 'max_parallel': 2, 'dtype': 'float64', 'valid_fraction': 0.25, 'num_channels': 8}
    frames = {'dataset': dataset(16, SEED)}
    kinds = {
        'undisturbed': {'seeds': [1, 2], 'device': device},
        'killed': {'seeds': [1, 2], 'device': device},
        'cpu': {'seeds': [1, 2], 'device': 'cpu'},
        'llpr': {'seeds': [1], 'device': device, 'uncertainty': 'llpr'},
        'heads': {'seeds': [1], 'device': device, 'uncertainty': 'heads'},
    }
    folders = {name: new_folder() for name in kinds}
    running = {name: start('train', folders[name], {**base, **some}, frames) for name, some in kinds.items()}
    for seed in ('1', '2'):
        wait_for(folders['killed'] / 'checkpoints' / seed / 'state.pt', running['killed'])
    kill(running['killed'])
    running['killed'] = start('train', folders['killed'], {**base, **kinds['killed']})
    results = {name: finished(job, folders[name]) for name, job in running.items()}
    for name, result in results.items():
        members = result['members'].values()
        said = [(m['wall_s'], m.get('continued_from'), m['errors']['valid']['force_rmse']) for m in members]
        print(f'training {name}: {result["device"]}, wall, continued from, force error: {said}', flush=True)
    report('training_continued_from', results['killed']['members']['member_00'].get('continued_from', 0), 'epoch')
    whole = folders['undisturbed']
    for name in ('killed', 'cpu'):
        loss, right = (np.array(_losses(folders[key] / 'member_00')) for key in (name, 'undisturbed'))
        report(f'training_{name}_relative_loss', float(np.max(np.abs(loss / right - 1))), '1')
        report(f'training_{name}_weights', largest(_weights(folders[name]), _weights(whole)), '1')
    members = {
        'committee': [whole / 'member_00.model', whole / 'member_01.model'],
        **{name: [folders[name] / 'member_00.model'] for name in ('llpr', 'heads')},
    }
    _uncertainties(device, members)
    _plans(device, members['committee'])


def _uncertainties(device: str, members: dict[str, list[Path]]) -> None:
    """Evaluation jobs on both devices."""
    from aiida_mlipal.science.evaluation import Evaluation

    frames = dataset(6, SEED + 1)
    folders = {(name, place): new_folder() for name in members for place in ('cpu', device)}
    running = {
        key: start('evaluate', folder, {'device': key[1]}, {'configurations': frames}, members[key[0]])
        for key, folder in folders.items()
    }
    for key, job in running.items():
        finished(job, folders[key])
    for name in members:
        ours, right = (Evaluation.load(folders[name, place] / 'evaluation.npz') for place in (device, 'cpu'))
        for column in ('energy', 'forces', 'stress', 'energy_std', 'forces_std', 'descriptors'):
            values, expected = getattr(ours, column), getattr(right, column)
            if np.isfinite(expected).all():
                error = np.linalg.norm(values - expected) / np.linalg.norm(expected)
                report(f'evaluation_{name}_{column}_relative', float(error), '1')


def _plans(device: str, members: list[Path]) -> None:
    """Every kind of plan for a few steps, a job each, all at once."""
    cubic = bulk('Cu', cubic=True)
    slab = fcc111('Cu', (2, 2, 3), vacuum=6.0)
    slab.pbc = [True, True, False]
    frames = [cubic, cubic * (2, 1, 1), slab]
    for index, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=index)
    ends = [cubic[1:], cubic[1:]]
    ends[1].positions[0] = cubic.positions[0]
    several = Configurations.from_atoms(frames)
    variables = [
        {'type': 'distance', 'atoms': [0, 1], 'width': 0.2},
        {'type': 'coordination', 'radius': 2.8, 'width': 0.2},
    ]
    cases: dict[str, tuple[dict[str, Any], Configurations]] = {
        'dynamics': ({'kind': 'dynamics'}, several),
        'strained': ({'kind': 'dynamics', 'strain_rates': {'xx': 0.1}}, several),
        'npt': ({'kind': 'dynamics', 'ensemble': 'npt_full_cell'}, several.take([0, 1])),
        'ramp': ({'kind': 'dynamics', 'ramp': [[0, 300], [20, 600]]}, several),
        'metadynamics': ({'kind': 'metadynamics', 'variables': variables}, several),
        'latent': ({'kind': 'metadynamics', 'variables': [{'type': 'latent'}]}, several.take([0, 1])),
        'uncertainty_bias': ({'kind': 'uncertainty_bias', 'strength': 0.5, 'max_strength': 0.9}, several),
        'replica_exchange': ({'kind': 'replica_exchange'}, several),
        'neb': ({'kind': 'neb', 'n_images': 3, 'max_steps': 10}, Configurations.from_atoms(ends)),
        'random_search': ({'kind': 'random_search', 'n_structures': 2, 'max_steps': 5}, several.take([0])),
        'normal_modes': ({'kind': 'normal_modes', 'temperatures': [300.0], 'max_steps': 5}, several.take([0])),
        'adversarial': ({'kind': 'adversarial', 'n_attacks': 2, 'n_moves': 10, 'save_every': 5}, several.take([0])),
        'basin_hopping': ({'kind': 'basin_hopping', 'n_walkers': 2, 'n_hops': 2, 'max_steps': 5}, several.take([0])),
    }
    base = {
        'seed': SEED, 'temperatures': [300.0, 400.0], 'n_replicas_per_temperature': 3, 'n_steps': 20,
        'dtype': 'float64', 'max_uncertainty': 100.0,
    }  # fmt: skip
    folders = {(name, place): new_folder() for name in cases for place in ('cpu', device)}
    running = {
        key: start(
            'explore',
            folder,
            {**base, 'plans': [cases[key[0]][0]], 'device': key[1]},
            {'starts': cases[key[0]][1]},
            members,
        )
        for key, folder in folders.items()
    }
    for name in cases:
        try:
            results = {place: finished(running[name, place], folders[name, place]) for place in ('cpu', device)}
            pools = {place: Configurations.load(folders[name, place] / 'pool.npz') for place in ('cpu', device)}
            report(f'plan_{name}', _difference(pools['cpu'], pools[device]), 'Å')
            print({place: (result['results']['n_visited'], result['wall_s']) for place, result in results.items()})
        except Exception:
            print(f'FAILED plan {name}\n{traceback.format_exc()}', flush=True)


def _difference(first: Configurations, second: Configurations) -> float:
    """Return the largest difference of positions between frames of the same trajectory and step; NaN without any."""
    rows = {(*key, first.origin[row]): row for row, key in enumerate(zip(first.trajectory, first.step, strict=True))}
    found = [np.nan]
    for row, key in enumerate(zip(second.trajectory, second.step, second.origin, strict=True)):
        if key in rows:
            found.append(largest(first.atoms(rows[key]).positions, second.atoms(row).positions))
    return float(np.nanmax(found)) if len(found) > 1 else np.nan


def messages(device: str) -> None:
    """MACE under torchrun, in one process, against ``mace_run_train`` by itself. All frames are in each step."""
    from aiida_mlipal.runners import mace_cli
    from aiida_mlipal.runners.torchrun import run_on_gpus

    settings = {
        'seeds': [1], 'device': device, 'dtype': 'float64', 'num_channels': 8, 'batch_size': 12, 'max_num_epochs': 6,
        'valid_fraction': 0.25,
    }  # fmt: skip
    frames, alone, joined = dataset(16, SEED), new_folder() / 'member_00', new_folder() / 'member_00'
    for folder in (alone, joined):
        folder.mkdir()
    timed([str(Path(sys.executable).parent / 'mace_run_train'), *bare_line(frames, settings, alone)], alone)
    line = [*bare_line(frames, settings, joined), '--distributed', '--launcher=torchrun']
    here = Path.cwd()
    os.chdir(joined)
    try:
        run_on_gpus(partial(mace_cli.run, line, bool, None), 1)
    finally:
        os.chdir(here)
    loss, right = (np.array(_losses(folder)) for folder in (joined, alone))
    print(f'torchrun: {json.dumps(loss.tolist())}, alone: {json.dumps(right.tolist())}')
    report('torchrun_relative_loss', float(np.max(np.abs(loss / right - 1))), '1')


PARTS: Final[dict[str, Callable[[str], None]]] = {
    part.__name__: part for part in (jobs, forces, trajectories, trainings, messages)
}


def main() -> None:
    """Check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', metavar='PART', help=f'of {", ".join(PARTS)}; all if none is given')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='`cpu` to try the script')
    arguments = parser.parse_args()
    print(f'numpy {np.__version__}, seed {SEED}')
    run_parts({name: partial(PARTS[name], arguments.device) for name in arguments.parts or PARTS})


if __name__ == '__main__':
    main()
