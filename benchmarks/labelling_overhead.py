"""What the plugin and AiiDA add to the cost of silicon labels, against a shell loop of pw.x in the same run.

    python benchmarks/labelling_overhead.py --labels 32 --concurrent 2 --repeats 1

Both run the same input (8-atom cells, rattled) with the same number of pw.x at a time. The plugin runs through a real
daemon in a profile of its own, which is deleted afterwards. CPU seconds per label are those of daemon and broker.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PSEUDOS = Path('/usr/share/espresso/pseudo')
PSEUDO = 'Si.pz-vbc.UPF'


def frames(n_frames: int, seed: int):
    """Return rattled 8-atom silicon cells."""
    from ase.build import bulk

    rng = np.random.default_rng(seed)
    result = []
    for _ in range(n_frames):
        atoms = bulk('Si', a=5.43, cubic=True)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        result.append(atoms)
    return result


def plugin_run(cells, concurrent: int, ecutwfc: float, run: int):
    """Return wall seconds, daemon CPU seconds, number of nodes and the inputs pw.x got, for one LabelWorkChain."""
    import psutil
    from aiida import orm
    from aiida.engine import submit
    from aiida.engine.daemon.client import get_daemon_client

    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.workflows.engines import load_engine
    from aiida_mlipal.workflows.label import LabelWorkChain

    settings = {
        'pseudo_family': 'debian-pz',
        'kpoints_distance': 0.6,
        'kpoints_offset': [0.5, 0.5, 0.5],
        'clean_workdir': False,
        'max_iterations': 1,
        'parameters': {
            'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True},
            'SYSTEM': {'ecutwfc': ecutwfc, 'occupations': 'smearing', 'smearing': 'cold', 'degauss': 0.02},
            'ELECTRONS': {'conv_thr': 1e-8},
        },
    }
    options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
    inputs = load_engine('quantumespresso').build(
        orm.load_code('pw@localhost'), [orm.StructureData(ase=cells[0])], settings, options
    )
    configurations = ConfigurationsData(Configurations.from_atoms(cells, origin=f'run {run}')).store()
    daemon = psutil.Process(get_daemon_client().get_daemon_pid())

    def daemon_cpu() -> float:
        processes = [daemon, *(p for p in daemon.children(recursive=True) if 'pw.x' not in p.name())]
        return sum(sum(p.cpu_times()[:2]) for p in processes if p.is_running())

    nodes_before, cpu_before, start = orm.QueryBuilder().append(orm.Node).count(), daemon_cpu(), time.time()
    node = submit(
        LabelWorkChain,
        configurations=configurations,
        engine=orm.Str('quantumespresso'),
        engine_inputs=inputs,
        max_concurrent=orm.Int(concurrent),
        reuse=orm.Bool(False),
    )
    while not node.is_terminated:
        time.sleep(0.2)
    wall, cpu = time.time() - start, daemon_cpu() - cpu_before
    if not node.is_finished_ok or not node.outputs.labels.configurations.is_labelled.all():
        sys.exit(f'labelling failed: {node.exit_message}')
    files = []
    for calculation in node.called_descendants:
        if isinstance(calculation, orm.CalcJobNode):
            files.append(calculation.base.repository.get_object_content('aiida.in'))
    return wall, cpu, orm.QueryBuilder().append(orm.Node).count() - nodes_before, files


def bare_run(files: list[str], concurrent: int, folder: Path) -> float:
    """Return wall seconds of the same inputs through a shell loop."""
    for number, content in enumerate(files):
        directory = folder / f'{number:03d}'
        (directory / 'out').mkdir(parents=True)
        (directory / 'pseudo').mkdir()
        shutil.copy(PSEUDOS / PSEUDO, directory / 'pseudo' / PSEUDO)
        (directory / 'aiida.in').write_text(content)
    command = f'ls -d */ | xargs -P {concurrent} -I@ sh -c "cd @ && pw.x -in aiida.in > aiida.out 2>&1"'
    start = time.time()
    subprocess.run(command, shell=True, check=True, cwd=folder)
    wall = time.time() - start
    done = sum('JOB DONE' in (folder / f'{number:03d}' / 'aiida.out').read_text() for number in range(len(files)))
    if done != len(files):
        sys.exit(f'the shell loop finished {done} of {len(files)} calculations')
    return wall


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--labels', type=int, default=32)
    parser.add_argument('--concurrent', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=1, help='pairs of runs; ratios are medians over pairs')
    parser.add_argument('--ecutwfc', type=float, default=16.0, help='Ry; a higher one makes each label longer')
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()

    os.environ['OMP_NUM_THREADS'] = '1'
    with tempfile.TemporaryDirectory() as folder:
        os.environ['AIIDA_PATH'] = folder
        setup = ['aiida-mlipal', 'quickstart', '--example', f'{folder}/campaign.yaml']
        subprocess.run(setup, check=True, stdout=subprocess.DEVNULL)
        from aiida import load_profile
        from aiida.engine.daemon.client import get_daemon_client

        load_profile()
        ratios, cpu_seconds, nodes, bare_seconds = [], [], [], []
        try:
            for run in range(arguments.repeats):
                cells = frames(arguments.labels, arguments.seed + run)
                wall, cpu, n_nodes, files = plugin_run(cells, arguments.concurrent, arguments.ecutwfc, run)
                bare = bare_run(files, arguments.concurrent, Path(folder) / f'bare_{run}')
                print(f'pair {run}: plugin {wall:.1f} s, shell loop {bare:.1f} s, daemon CPU {cpu:.1f} s', flush=True)
                ratios.append(wall / bare)
                cpu_seconds.append(cpu / arguments.labels)
                nodes.append(n_nodes / arguments.labels)
                bare_seconds.append(bare / arguments.labels * arguments.concurrent)
        finally:
            get_daemon_client().stop_daemon(wait=True)

    print(f'machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end')
    print(f'seeds: {arguments.seed}..{arguments.seed + arguments.repeats - 1}; {arguments.labels} labels a run')
    print(f'spread of the ratio over {len(ratios)} pairs: {min(ratios):.2f} to {max(ratios):.2f}')
    print(f'RESULT seconds_per_pw_run {statistics.median(bare_seconds):.2f} s')
    print(f'RESULT wall_ratio_qe {statistics.median(ratios):.2f} 1')
    print(f'RESULT cpu_seconds_per_label_qe {statistics.median(cpu_seconds):.2f} s')
    print(f'RESULT nodes_per_label_qe {statistics.median(nodes):.1f} 1')


if __name__ == '__main__':
    main()
