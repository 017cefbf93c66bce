"""Hundreds of labels through one default daemon: nothing may lock up, be lost, grow, or become slower.

    python benchmarks/labelling_scale.py                   # 75, 150 and 300 labels: an hour on two cores
    python benchmarks/labelling_scale.py --sizes 20 40

With `mlipal.ase.label` (EMT copper), and with an executable of one second in place of pw.x, so that AiiDA has nothing
to hide behind: once as usual (`qe`: labels so short share jobs) and once with a job per label (`qe-alone`). That
executable sleeps and writes what a real pw.x has written for a cell of two atoms at the start of the benchmark: all
labels are equal, and only their way through AiiDA is measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from _scratch_profile import daemon_cpu, daemon_memory, machine, rattled, scratch_profile, wait

OPTIONS = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
QE = {
    'pseudo_family': 'debian-pz',
    'kpoints_distance': 1.2,
    'kpoints_offset': [0.5, 0.5, 0.5],
    'clean_workdir': True,
    'max_iterations': 5,
    'parameters': {
        'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True},
        'SYSTEM': {'ecutwfc': 12.0, 'occupations': 'smearing', 'smearing': 'cold', 'degauss': 0.02},
        'ELECTRONS': {'conv_thr': 1e-8},
    },
}
ENGINES = ['ase', 'qe', 'qe-alone']
ASE = {'parameters': {'calculator': 'emt'}, 'clean_workdir': True}


class Memory:
    """The memory of the daemon in MiB, every five seconds."""

    def __init__(self) -> None:
        self.samples = [daemon_memory()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(5.0):
            self.samples.append(daemon_memory())

    def stop(self) -> tuple[float, float, float]:
        """Return the memory at the start, in the middle and at the end."""
        self._stop.set()
        self._thread.join()
        self.samples.append(daemon_memory())
        return self.samples[0], self.samples[len(self.samples) // 2], self.samples[-1]


def label(
    engine: str, code: str, settings: dict[str, Any], frames: list[Any], max_concurrent: int, frames_per_job: int = 16
) -> Any:
    """Submit a LabelWorkChain, wait, and return its node."""
    from aiida import orm
    from aiida.engine import submit

    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.science.configurations import Configurations
    from aiida_mlipal.workflows.engines import load_engine
    from aiida_mlipal.workflows.label import LabelWorkChain

    structures = [orm.StructureData(ase=frames[0])]
    node = submit(
        LabelWorkChain,
        configurations=ConfigurationsData(Configurations.from_atoms(frames, origin='scale')).store(),
        engine=orm.Str(engine),
        engine_inputs=load_engine(engine).build(orm.load_code(code), structures, settings, OPTIONS),
        max_concurrent=orm.Int(max_concurrent),
        frames_per_job=orm.Int(frames_per_job),
        reuse=orm.Bool(False),
    )
    wait(node)
    if not node.is_finished_ok:
        sys.exit(f'labelling failed: {node.exit_message}')
    return node


def fake_pw(folder: Path) -> None:
    """Register an executable that takes a second and writes what pw.x has written for one cell."""
    from aiida import orm
    from ase.build import bulk

    real = label('quantumespresso', 'pw@localhost', QE, rattled(bulk('Si', a=5.43), 1, seed=0), 1)
    job = next(node for node in real.called_descendants if isinstance(node, orm.CalcJobNode))
    for name in ('aiida.out', 'data-file-schema.xml'):
        (folder / name).write_bytes(job.outputs.retrieved.base.repository.get_object_content(name, mode='rb'))
    script = folder / 'fake_pw.sh'
    script.write_text(
        '#!/bin/sh\nfor input; do :; done\nsleep 1\n'
        """out=$(sed -n "s/ *outdir = '\\(.*\\)'/\\1/p" "$input")/aiida.save\n"""
        f'mkdir -p "$out"\ncp {folder}/data-file-schema.xml "$out"\ncat {folder}/aiida.out\n'
    )
    script.chmod(0o755)
    orm.InstalledCode(
        label='fake',
        computer=orm.load_computer('localhost'),
        filepath_executable=str(script),
        default_calc_job_plugin='quantumespresso.pw',
        with_mpi=False,
    ).store()


def check(node: Any, n_frames: int, n_computed: int) -> int:
    """Stop if a label was lost, or computed twice; return the number of jobs."""
    from aiida import orm

    from aiida_mlipal.workflows.attempts import shared_tasks

    labelled = int(node.outputs.labels.configurations.is_labelled.sum())
    jobs = [process for process in node.called_descendants if isinstance(process, orm.CalcJobNode)]
    failed = sum(not job.is_finished_ok for job in jobs)
    computed = sum(len(shared_tasks(job)) or 1 for job in jobs)
    if labelled != n_frames or computed != n_computed or failed:
        sys.exit(f'{labelled} of {n_frames} labelled; {computed} computed, {n_computed} expected; {failed} jobs failed')
    return len(jobs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[75, 150, 300], help='labels per run')
    parser.add_argument('--engines', nargs='+', choices=ENGINES, default=ENGINES)
    parser.add_argument('--max-concurrent', type=int, default=32)
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()

    with scratch_profile() as folder:
        from ase.build import bulk

        from aiida_mlipal.calculations.functions.labels import CHUNK_SIZE

        fake_pw(folder)
        copper, silicon = bulk('Cu', cubic=True), bulk('Si', a=5.43)
        for name in arguments.engines:
            seconds = []
            for size in arguments.sizes:
                frames = rattled(copper if name == 'ase' else silicon, size, arguments.seed + size)
                memory, cpu, start = Memory(), daemon_cpu(), time.time()
                if name == 'ase':
                    node = label('ase', 'python@localhost', ASE, frames, arguments.max_concurrent)
                else:
                    together = 1 if name == 'qe-alone' else 16
                    node = label('quantumespresso', 'fake@localhost', QE, frames, arguments.max_concurrent, together)
                wall, cpu = time.time() - start, daemon_cpu() - cpu
                n_jobs = check(node, size, -(-size // CHUNK_SIZE) if name == 'ase' else size)
                first, middle, last = memory.stop()
                seconds.append(wall / size)
                print(
                    f'{name}: {size} labels, {n_jobs} jobs in {wall:.0f} s, {cpu / size:.2f} CPU s per label; daemon '
                    f'{first:.0f}, {middle:.0f}, {last:.0f} MiB at the start, middle and end; '
                    f'load {os.getloadavg()[0]:.1f}',
                    flush=True,
                )
                print(f'RESULT seconds_per_label_{name}_{size} {wall / size:.2f} s')
                print(f'RESULT cpu_seconds_per_label_{name}_{size} {cpu / size:.2f} s')
                print(f'RESULT daemon_memory_growth_{name}_{size} {last - first:.0f} MiB', flush=True)
            print(f'RESULT slowdown_{name} {seconds[-1] / seconds[0]:.2f} 1')
    print(machine())
    print(f'seeds: {arguments.seed} + size; {arguments.max_concurrent} at a time at most; one run per size')


if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    main()
