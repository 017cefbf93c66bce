"""What the plugin and AiiDA add to the cost of labels, against a shell loop of pw.x in the same run.

    python benchmarks/labelling_overhead.py            # an hour on two cores
    python benchmarks/labelling_overhead.py --quick    # few and short labels, one pair

Plugin and shell loop run the same inputs with the same number of calculations at a time: silicon (8 atoms, rattled)
with pw.x, once with labels of about 3 s and once with labels of about 10 s, as usual, where labels so short share jobs
(`qe`), and with a job per label (`qe-alone`); water with CP2K (GPW); copper with EMT, a chunk of frames in one job. The
plugin runs through a real daemon in a profile of its own, which is deleted afterwards. CPU seconds per label are those
of daemon, broker and worker, without the codes. They depend on how fast a core is, so a loop of ten million additions
is timed beside them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _scratch_profile import daemon_cpu, machine, rattled, scratch_profile, wait

PSEUDOS = Path('/usr/share/espresso/pseudo')
CP2K = {
    'clean_workdir': True,
    'max_iterations': 2,
    'parameters': {
        'FORCE_EVAL': {
            'DFT': {
                'BASIS_SET_FILE_NAME': 'BASIS_MOLOPT',
                'POTENTIAL_FILE_NAME': 'GTH_POTENTIALS',
                'MGRID': {'CUTOFF': 400, 'REL_CUTOFF': 60},
                'QS': {'METHOD': 'GPW', 'EPS_DEFAULT': 1e-12},
                'SCF': {'EPS_SCF': 1e-7},
                'XC': {'XC_FUNCTIONAL': {'_': 'PBE'}},
            },
            'SUBSYS': {'KIND': [{'_': 'DEFAULT', 'BASIS_SET': 'DZVP-MOLOPT-SR-GTH', 'POTENTIAL': 'GTH-PBE'}]},
        }
    },
}
OPTIONS = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}


@dataclass(frozen=True)
class Run:
    """One LabelWorkChain: seconds of wall time, CPU seconds of the daemon, nodes, and the process."""

    wall: float
    cpu: float
    n_nodes: int
    node: Any


def label(
    engine: str, code: str, settings: dict[str, Any], frames: list[Any], concurrent: int, frames_per_job: int = 16
) -> Run:
    """Label frames through the daemon."""
    from aiida import orm
    from aiida.engine import submit

    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.workflows.engines import load_engine
    from aiida_mlipal.workflows.label import LabelWorkChain

    structures = [orm.StructureData(ase=frames[0])]
    inputs = load_engine(engine).build(orm.load_code(code), structures, settings, OPTIONS)
    configurations = ConfigurationsData(Configurations.from_atoms(frames, origin=f'{engine} {time.time()}')).store()
    before, cpu = orm.QueryBuilder().append(orm.Node).count(), daemon_cpu()
    node = submit(
        LabelWorkChain,
        configurations=configurations,
        engine=orm.Str(engine),
        engine_inputs=inputs,
        max_concurrent=orm.Int(concurrent),
        frames_per_job=orm.Int(frames_per_job),
        reuse=orm.Bool(False),
    )
    wall = wait(node)
    if not node.is_finished_ok or not node.outputs.labels.configurations.is_labelled.all():
        sys.exit(f'labelling failed: {node.exit_message}')
    return Run(wall, daemon_cpu() - cpu, orm.QueryBuilder().append(orm.Node).count() - before, node)


def qe_settings(ecutwfc: float) -> dict[str, Any]:
    """Return the label section of a campaign."""
    return {
        'pseudo_family': 'debian-pz',
        'kpoints_distance': 0.6,
        'kpoints_offset': [0.5, 0.5, 0.5],
        'clean_workdir': True,
        'max_iterations': 5,
        'parameters': {
            'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True},
            'SYSTEM': {'ecutwfc': ecutwfc, 'occupations': 'smearing', 'smearing': 'cold', 'degauss': 0.02},
            'ELECTRONS': {'conv_thr': 1e-8},
        },
    }


def bare_run(folders: list[dict[str, bytes]], command: str, done: str, concurrent: int) -> float:
    """Return the wall seconds of a shell loop that runs ``command`` in folders with these files."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number, files in enumerate(folders):
            for path, content in files.items():
                target = root / f'{number:03d}' / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        loop = f'ls -d */ | xargs -P {concurrent} -I@ sh -c "cd @ && {command} > out.txt 2>&1"'
        start = time.time()
        subprocess.run(loop, shell=True, check=True, cwd=root)
        wall = time.time() - start
        ended = sum(done in path.read_text() for path in root.glob('*/out.txt'))
    if ended != len(folders):
        sys.exit(f'the shell loop finished {ended} of {len(folders)} calculations')
    return wall


def jobs_of(node: Any) -> list[Any]:
    """Return the jobs below a process."""
    from aiida import orm

    return [process for process in node.called_descendants if isinstance(process, orm.CalcJobNode)]


def bare_pw(node: Any, concurrent: int) -> float:
    """Return the wall seconds of pw.x in a shell loop with the inputs of all frames of ``node``."""
    pseudo, folders = (PSEUDOS / 'Si.pz-vbc.UPF').read_bytes(), []
    for job in jobs_of(node):
        repository = job.base.repository
        for name in repository.list_object_names():
            if name.endswith('.in'):
                content = repository.get_object_content(name, 'rb')
                folders.append({'in': content, 'pseudo/Si.pz-vbc.UPF': pseudo})
    return bare_run(folders, 'pw.x -in in', 'JOB DONE', concurrent)


def bare_cp2k(node: Any, executable: str, concurrent: int) -> float:
    """Return the wall seconds of CP2K in a shell loop with the inputs of all frames of ``node``."""
    folders = []
    for job in jobs_of(node):
        repository = job.base.repository
        own = [name for name in repository.list_object_names() if name.startswith('aiida.')]
        files = {name: repository.get_object_content(name, 'rb') for name in own}
        for file in job.inputs.file.values():
            files[file.filename] = file.get_content('rb')
        folders.append(files)
    return bare_run(folders, f'{executable} -i aiida.inp', 'PROGRAM ENDED', concurrent)


def reference_loop() -> float:
    """Return the CPU seconds of ten million additions: how fast a core is just now."""
    start, total = time.process_time(), 0
    for number in range(10**7):
        total += number
    return time.process_time() - start


def measure_qe(arguments: argparse.Namespace, suffix: str = '', frames_per_job: int = 16) -> None:
    """Pairs of plugin and shell loop, for each length of a label."""
    from ase.build import bulk

    silicon = bulk('Si', a=5.43, cubic=True)
    first = label('quantumespresso', 'pw@localhost', qe_settings(16.0), rattled(silicon, 1, arguments.seed), 1)
    at_16 = bare_pw(first.node, 1)
    cpu, nodes, ratio = [], [], 1.0
    for target in arguments.seconds:
        # Plane waves go with the power of 3/2. A level of theory of its own: nothing is known of its costs.
        ecutwfc = round(max(12.0, 16.0 * (target / at_16) ** (2 / 3)), 1) + 0.01 * frames_per_job
        ratios, lengths = [], []
        for pair in range(arguments.pairs):
            frames = rattled(silicon, arguments.labels, arguments.seed + pair)
            settings = qe_settings(ecutwfc)
            run = label('quantumespresso', 'pw@localhost', settings, frames, arguments.concurrent, frames_per_job)
            bare = bare_pw(run.node, arguments.concurrent)
            lengths.append(bare / arguments.labels * arguments.concurrent)
            ratios.append(run.wall / bare)
            cpu.append(run.cpu / arguments.labels)
            nodes.append(run.n_nodes / arguments.labels)
            print(
                f'{target:.0f} s{suffix}, pair {pair}: plugin {run.wall:.0f} s in {len(jobs_of(run.node))} jobs, '
                f'shell loop {bare:.0f} s, {run.cpu:.0f} CPU s',
                flush=True,
            )
        ratio = statistics.median(ratios)
        length, spread = statistics.median(lengths), f'{min(ratios):.2f} to {max(ratios):.2f}'
        print(f'labels of {length:.1f} s ({ecutwfc} Ry): ratios from {spread}')
        print(f'RESULT wall_ratio_qe{suffix}_{target:.0f}s {ratio:.2f} 1', flush=True)
    print(f'CPU seconds per label from {min(cpu):.2f} to {max(cpu):.2f}')
    print(f'RESULT wall_ratio_qe{suffix} {ratio:.2f} 1')
    print(f'RESULT cpu_seconds_per_label_qe{suffix} {statistics.median(cpu):.2f} s')
    print(f'RESULT nodes_per_label_qe{suffix} {statistics.median(nodes):.1f} 1', flush=True)


def measure_cp2k(arguments: argparse.Namespace) -> None:
    """Pairs of plugin and shell loop with GPW labels of a water molecule."""
    from aiida import orm
    from ase.build import molecule

    executable = next(filter(None, map(shutil.which, ('cp2k.ssmp', 'cp2k.psmp', 'cp2k'))), None)
    if executable is None:
        sys.exit('no CP2K: apt install cp2k cp2k-data, or leave it out with --engines qe ase')
    orm.InstalledCode(
        label='cp2k',
        computer=orm.load_computer('localhost'),
        filepath_executable=executable,
        default_calc_job_plugin='cp2k',
        prepend_text='export OMP_NUM_THREADS=1',
        with_mpi=False,
    ).store()
    ratios, lengths, cpu, nodes = [], [], [], []
    for pair in range(arguments.pairs):
        frames = rattled(molecule('H2O'), arguments.labels, arguments.seed + pair, scale=0.02)
        run = label('cp2k', 'cp2k@localhost', CP2K, frames, arguments.concurrent)
        bare = bare_cp2k(run.node, executable, arguments.concurrent)
        lengths.append(bare / arguments.labels * arguments.concurrent)
        ratios.append(run.wall / bare)
        cpu.append(run.cpu / arguments.labels)
        nodes.append(run.n_nodes / arguments.labels)
        print(f'CP2K, pair {pair}: plugin {run.wall:.0f} s, shell loop {bare:.0f} s, {run.cpu:.0f} CPU s', flush=True)
    print(f'labels of {statistics.median(lengths):.1f} s: ratios from {min(ratios):.2f} to {max(ratios):.2f}')
    print(f'RESULT wall_ratio_cp2k {statistics.median(ratios):.2f} 1')
    print(f'RESULT cpu_seconds_per_label_cp2k {statistics.median(cpu):.2f} s')
    print(f'RESULT nodes_per_label_cp2k {statistics.median(nodes):.1f} 1', flush=True)


def measure_ase(arguments: argparse.Namespace) -> None:
    """Copper with EMT: a chunk of frames per job."""
    from ase.build import bulk

    settings = {'parameters': {'calculator': 'emt'}, 'clean_workdir': True}
    n_frames = 8 * arguments.labels
    cpu = []
    for pair in range(arguments.pairs):
        frames = rattled(bulk('Cu', cubic=True), n_frames, arguments.seed + pair)
        run = label('ase', 'python@localhost', settings, frames, arguments.concurrent)
        cpu.append(run.cpu / n_frames)
        print(f'{n_frames} labels with EMT: {run.wall:.0f} s, {run.cpu:.1f} CPU s of the daemon, {run.n_nodes} nodes')
    print(f'RESULT cpu_seconds_per_label_ase {statistics.median(cpu):.3f} s', flush=True)


MEASURES = {
    'qe': measure_qe,
    'qe-alone': partial(measure_qe, suffix='_alone', frames_per_job=1),
    'cp2k': measure_cp2k,
    'ase': measure_ase,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--labels', type=int, default=16, help='per run')
    parser.add_argument('--concurrent', type=int, default=2)
    parser.add_argument('--pairs', type=int, default=3, help='of plugin and shell loop; ratios are medians of them')
    parser.add_argument('--seconds', type=float, nargs='+', default=[3.0, 10.0], help='length of a label')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--engines', nargs='+', choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument('--quick', action='store_true', help='8 labels of 3 s, one pair')
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.labels, arguments.pairs, arguments.seconds = 8, 1, [3.0]

    loop = reference_loop()
    with scratch_profile():
        for engine in arguments.engines:
            MEASURES[engine](arguments)
    loop = statistics.mean([loop, reference_loop()])
    print(f'{machine()}; ten million additions take {loop:.2f} CPU s')
    print(f'seeds: {arguments.seed}..{arguments.seed + arguments.pairs - 1}; {arguments.labels} labels a run')
    print(f'RESULT reference_loop {loop:.2f} s')


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    main()
