"""Does it pay to start pw.x from the charge density of the previous frame of a trajectory?

    python benchmarks/density_reuse.py --frames 10

Bare pw.x, one process, on silicon (8 atoms) along a short seeded path of molecular dynamics: each frame from atomic
densities (cold), from the density of the frame before, and from its density and wavefunctions. The order of the three
alternates. The forces of the dynamics are those of springs between neighbours: only the size of the steps matters.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

PSEUDOS = Path('/usr/share/espresso/pseudo')
INPUT = """\
&CONTROL
  calculation='scf', prefix='frame', outdir='{outdir}', pseudo_dir='{pseudos}', tprnfor=.true., tstress=.true.
/
&SYSTEM
  ibrav=0, nat={n_atoms}, ntyp=1, ecutwfc={ecutwfc}, occupations='smearing', smearing='cold', degauss=0.02
/
&ELECTRONS
  conv_thr=1e-8, startingpot='{pot}', startingwfc='{wfc}'
/
ATOMIC_SPECIES
Si 28.086 Si.pz-vbc.UPF
K_POINTS automatic
2 2 2 1 1 1
CELL_PARAMETERS angstrom
{cell}
ATOMIC_POSITIONS angstrom
{positions}
"""
#: How each way starts: potential and wavefunctions.
STARTS = {
    'cold': ('atomic', 'atomic+random'),
    'density': ('file', 'atomic+random'),
    'density_and_wavefunctions': ('file', 'file'),
}


@dataclass(frozen=True)
class Run:
    """What one pw.x said: seconds of wall time, SCF steps, energy (eV), forces (eV/Å, shape (n_atoms, 3))."""

    wall: float
    steps: int
    energy: float
    forces: np.ndarray


def path(n_frames: int, spacing: float, temperature: float, seed: int) -> list:
    """Return frames ``spacing`` fs apart: velocity Verlet with springs of 9 eV/Å² between neighbours."""
    from ase.build import bulk
    from ase.neighborlist import neighbor_list
    from ase.units import fs, kB

    atoms = bulk('Si', a=5.43, cubic=True)
    first, second, shift = neighbor_list('ijS', atoms, 2.6)
    offsets, length = shift @ atoms.cell.array, 5.43 * 3**0.5 / 4

    def forces() -> np.ndarray:
        bonds = atoms.positions[second] + offsets - atoms.positions[first]
        distance = np.linalg.norm(bonds, axis=1, keepdims=True)
        result = np.zeros_like(atoms.positions)
        np.add.at(result, first, 9.0 * (distance - length) * bonds / distance)
        return result

    rng = np.random.default_rng(seed)
    atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
    masses, step = atoms.get_masses()[:, None], 1.0 * fs
    velocities = rng.normal(size=atoms.positions.shape) * np.sqrt(kB * temperature / masses)
    velocities -= velocities.mean(axis=0)
    frames, force = [], forces()
    for number in range(int((n_frames - 1) * spacing) + 1):
        if number % int(spacing) == 0:
            frames.append(atoms.copy())
        velocities = velocities + 0.5 * step * force / masses
        atoms.positions += step * velocities
        force = forces()
        velocities = velocities + 0.5 * step * force / masses
    return frames


def pw(atoms, folder: Path, start: str, ecutwfc: float) -> Run:
    """Run pw.x in ``folder``, where the files of the frame before lie."""
    from ase.units import Bohr, Rydberg

    pot, wfc = STARTS[start]
    cell = '\n'.join(' '.join(f'{x:.10f}' for x in vector) for vector in atoms.cell.array)
    positions = '\n'.join('Si ' + ' '.join(f'{x:.10f}' for x in position) for position in atoms.positions)
    text = INPUT.format(
        outdir='out', pseudos=PSEUDOS, n_atoms=len(atoms), ecutwfc=ecutwfc, pot=pot, wfc=wfc, cell=cell,
        positions=positions,
    )  # fmt: skip
    (folder / 'pw.in').write_text(text)
    begin = time.perf_counter()
    output = subprocess.run(['pw.x', '-in', 'pw.in'], cwd=folder, capture_output=True, text=True, check=False).stdout
    wall = time.perf_counter() - begin
    if 'JOB DONE' not in output:
        sys.exit(f'pw.x failed ({start}):\n{output[-2000:]}')
    energy = float(re.findall(r'!\s+total energy\s+=\s+(\S+) Ry', output)[-1]) * Rydberg
    rows = re.findall(r'atom\s+\d+ type\s+\d+\s+force =\s+(\S+)\s+(\S+)\s+(\S+)', output)[: len(atoms)]
    steps = int(re.findall(r'convergence has been achieved in\s+(\d+) iterations', output)[-1])
    return Run(wall, steps, energy, np.array(rows, dtype=float) * Rydberg / Bohr)


def compare(frames: list, ecutwfc: float, folder: Path) -> list[dict[str, Run]]:
    """Return the runs of every frame but the first, by start; the first fills the folders."""
    for start in STARTS:
        (folder / start).mkdir(parents=True)
        pw(frames[0], folder / start, 'cold', ecutwfc)
    result = []
    for number, atoms in enumerate(frames[1:]):
        order = list(STARTS) if number % 2 else list(STARTS)[::-1]
        runs = {}
        for start in order:
            if start == 'cold':
                shutil.rmtree(folder / start / 'out')
            runs[start] = pw(atoms, folder / start, start, ecutwfc)
        result.append(runs)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=10, help='per path; the first is not counted')
    parser.add_argument(
        '--spacings', type=int, nargs='+', default=[10, 50], help='fs between frames; the last is the RESULT'
    )
    parser.add_argument('--temperature', type=float, default=600.0, help='K')
    parser.add_argument('--ecutwfc', type=float, default=16.0, help='Ry')
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = '1'

    speedup = 1.0
    for spacing in arguments.spacings:
        frames = path(arguments.frames, spacing, arguments.temperature, arguments.seed)
        moved = [np.abs(b.positions - a.positions).max() for a, b in pairwise(frames)]
        with tempfile.TemporaryDirectory() as folder:
            runs = compare(frames, arguments.ecutwfc, Path(folder))
        print(f'frames {spacing} fs apart, largest displacement {statistics.median(moved):.2f} Å (median)')
        for start in STARTS:
            ratios = [run['cold'].wall / run[start].wall for run in runs]
            error = max(np.abs(run[start].forces - run['cold'].forces).max() for run in runs)
            energy = max(abs(run[start].energy - run['cold'].energy) for run in runs)
            speedup = statistics.median(ratios)
            print(
                f'  {start:26} {statistics.median(run[start].steps for run in runs):4.1f} SCF steps, '
                f'{statistics.median(run[start].wall for run in runs):5.2f} s, speedup {speedup:.2f} '
                f'({min(ratios):.2f} to {max(ratios):.2f}), off by {energy * 1e3:.2g} meV, {error * 1e3:.2g} meV/Å',
                flush=True,
            )
        print(f'RESULT density_reuse_speedup_{spacing}fs {speedup:.2f} 1')
    print(f'machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end')
    print(f'seed: {arguments.seed}; {arguments.frames - 1} pairs per spacing, {arguments.temperature:.0f} K')
    print(f'RESULT density_reuse_speedup {speedup:.2f} 1')


if __name__ == '__main__':
    main()
