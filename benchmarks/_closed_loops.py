"""Closed loops of `label_efficiency.py`: the model explores, a live teacher labels, and candidates depend on both.

Two systems start from next to nothing. Butane starts from its minimum, slightly rattled, and is tested on dynamics of
the teacher (GFN2-xTB) at 600 K and on scans of its torsions. Copper starts from its rattled crystal and is tested on
melts, vacancies and strained cells of the teacher (EMT of ASE). Hydrogen is given the mass of 4 u in all dynamics: what
is visited at a temperature does not depend on masses, and time steps can be longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from _label_runs import Curve, Frames, Learner, described, errors, labelled
from _surrogate import Basis
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from aiida_mlipal.science.filters import too_close

N_START, BATCH = 4, 2
N_REPLICAS = 4
#: A replica whose model pulls harder than this (eV/Å) has left what the model knows, and stops.
MAX_FORCE = 30.0
HYDROGEN_MASS = 4.0
N_HIDDEN = 256


@dataclass
class System:
    """What is simulated, by whom it is labelled, and on what it is tested."""

    name: str
    teacher: Callable[[], Any]
    parent: Atoms
    rattle: float  #: Å, of the first frames
    timestep: float  #: fs
    temperatures: tuple[float, ...]  #: of the replicas of an exploration, K
    n_steps: int  #: of each
    stride: int  #: between two candidates
    cutoff: float
    test: list[tuple[str, Atoms]]
    plain: list[Atoms]  #: dynamics of the teacher at 300 K, from the parent


def _masses(atoms: Atoms) -> np.ndarray:
    return np.where(atoms.numbers == 1, HYDROGEN_MASS, atoms.get_masses())


def teacher_dynamics(
    atoms: Atoms, teacher: Callable[[], Any], kelvin: float, timestep: float, n_steps: int, stride: int, seed: int
) -> list[Atoms]:
    """Return every ``stride``-th frame of Langevin dynamics of the teacher, the first third left out."""
    atoms = atoms.copy()
    atoms.set_masses(_masses(atoms))
    atoms.calc = teacher()
    rng = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(
        atoms, timestep * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    found: list[Atoms] = []

    def keep() -> None:
        frame = atoms.copy()
        frame.calc = None
        found.append(frame)

    dynamics.attach(keep, interval=stride)
    dynamics.run(n_steps)
    return found[len(found) // 3 :]


def butane(quick: bool) -> System:
    """Return butane with GFN2-xTB."""
    from tblite.ase import TBLite

    def teacher() -> Any:
        return TBLite(method='GFN2-xTB', verbosity=0)

    atoms = molecule('trans-butane', vacuum=10.0)  # matscipy looks for neighbours in a cell, periodic or not
    atoms.calc = teacher()
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    parent = atoms.copy()
    parent.calc = None
    carbons = np.flatnonzero(parent.numbers == 6)
    order = _chain(parent, carbons)
    test = []
    for a, b, c, d in ((*order,), (_hydrogen_of(parent, order[0]), *order[:3])):
        beyond = _beyond(parent, b, c)
        for angle in np.arange(0, 360, 15):
            frame = parent.copy()
            frame.set_dihedral(a, b, c, d, angle, indices=beyond)
            if not too_close(frame.numbers, frame.positions, frame.cell, frame.pbc, 0.8):
                test.append(('torsion', frame))
    n_steps = 1000 if quick else 3000
    hot = teacher_dynamics(parent, teacher, 600.0, 1.5, n_steps, 20, seed=1)
    plain = teacher_dynamics(parent, teacher, 300.0, 1.5, n_steps, 10, seed=2)
    test += [('600 K', frame) for frame in hot]
    return System('butane', teacher, parent, 0.03, 1.5, (300.0, 600.0, 600.0, 900.0), 600, 30, 4.5, test, plain)


def _bonds(atoms: Atoms, index: int) -> list[int]:
    """Return the neighbours of an atom within the length of a bond."""
    distances = atoms.get_distances(index, range(len(atoms)))
    limits = np.where((atoms.numbers == 1) | (atoms.numbers[index] == 1), 1.25, 1.75)
    return [int(row) for row in np.flatnonzero((distances > 0.1) & (distances < limits))]


def _chain(atoms: Atoms, carbons: np.ndarray) -> list[int]:
    """Return the carbon atoms from one end to the other."""
    ends = [int(c) for c in carbons if sum(atoms.numbers[row] == 6 for row in _bonds(atoms, c)) == 1]
    chain = [ends[0]]
    while len(chain) < len(carbons):
        chain += [row for row in _bonds(atoms, chain[-1]) if atoms.numbers[row] == 6 and row not in chain]
    return chain


def _hydrogen_of(atoms: Atoms, carbon: int) -> int:
    return next(row for row in _bonds(atoms, carbon) if atoms.numbers[row] == 1)


def _beyond(atoms: Atoms, fixed: int, moving: int) -> list[int]:
    """Return the atoms on the side of ``moving`` of the bond between both."""
    found, waiting = {moving}, [moving]
    while waiting:
        for row in _bonds(atoms, waiting.pop()):
            if row != fixed and row not in found:
                found.add(row)
                waiting.append(row)
    return sorted(found)


def copper(quick: bool) -> System:
    """Return copper with EMT."""
    from ase.calculators.emt import EMT

    parent = bulk('Cu', cubic=True).repeat((2, 2, 2))
    n_steps, rng = (200 if quick else 600), np.random.default_rng(3)
    wide = parent.copy()
    wide.set_cell(1.03 * parent.cell.array, scale_atoms=True)
    vacancy = parent.copy()
    del vacancy[0]
    # Hot enough to lose the order of the crystal within a picosecond.
    test = [('melt', frame) for frame in teacher_dynamics(wide, EMT, 3000.0, 4.0, n_steps, 20, seed=1)]
    test += [('vacancy', frame) for frame in teacher_dynamics(vacancy, EMT, 900.0, 4.0, n_steps, 20, seed=2)]
    for _ in range(12 if quick else 30):
        strain = rng.uniform(-0.06, 0.06, size=(3, 3))
        frame = parent.copy()
        frame.set_cell(parent.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
        test.append(('strained', frame))
    plain = teacher_dynamics(parent, EMT, 300.0, 4.0, 2 * n_steps, 10, seed=4)
    return System('copper', EMT, parent, 0.05, 4.0, (300.0, 900.0, 1800.0, 3000.0), 120, 6, 4.0, test, plain)


def explore(learner: Learner, system: System, seed: list[int]) -> list[Atoms]:
    """Return the frames of Langevin dynamics of the model from frames that it knows, all replicas in one batch.

    A replica stops where the model pulls too hard or atoms come too close. Integrator: BAOAB (Leimkuhler and Matthews,
    Appl. Math. Res. Express 2013, 34).
    """
    assert learner.fit is not None
    rng = np.random.default_rng(seed)
    starts = rng.permutation(len(learner.known))[:N_REPLICAS]
    replicas = [learner.known[row].copy() for row in np.resize(starts, N_REPLICAS)]
    masses = [_masses(atoms)[:, None] for atoms in replicas]
    spread = [np.sqrt(units.kB * kelvin / mass) for kelvin, mass in zip(system.temperatures, masses, strict=True)]
    velocities = [sigma * rng.normal(size=(len(sigma), 3)) for sigma in spread]
    step, keep = system.timestep * units.fs, np.exp(-0.02 * system.timestep)
    alive, found = list(range(N_REPLICAS)), []
    forces = dict(zip(alive, _split(learner, replicas), strict=True))
    for number in range(1, system.n_steps + 1):
        for row in alive:
            velocities[row] += 0.5 * step * forces[row] / masses[row]
            replicas[row].positions += 0.5 * step * velocities[row]
            noise = spread[row] * rng.normal(size=velocities[row].shape)
            velocities[row] = keep * velocities[row] + np.sqrt(1 - keep**2) * noise
            replicas[row].positions += 0.5 * step * velocities[row]
        forces = dict(zip(alive, _split(learner, [replicas[row] for row in alive]), strict=True))
        for row in list(alive):
            velocities[row] += 0.5 * step * forces[row] / masses[row]
            atoms = replicas[row]
            bad = not np.abs(forces[row]).max() < MAX_FORCE
            if bad or (number % 5 == 0 and too_close(atoms.numbers, atoms.positions, atoms.cell, atoms.pbc, 0.6)):
                alive.remove(row)
            elif number % system.stride == 0:
                found.append(atoms.copy())
        if not alive:
            break
    return found


def _split(learner: Learner, frames: list[Atoms]) -> list[np.ndarray]:
    assert learner.fit is not None
    forces = learner.basis.forces(frames, learner.fit.weights)
    return np.split(forces, np.cumsum([len(atoms) for atoms in frames])[:-1])


def run_loop(basis: Basis, system: System, test: Frames, strategy: str, seed: int, n_rounds: int) -> Curve:
    """Start from rattled copies of the parent, the same for all strategies; explore, choose, label, train, and again.

    With the strategy ``300 K`` nothing is explored: frames are drawn from dynamics of the teacher at that temperature.
    """
    rng = np.random.default_rng([seed, 2])
    learner, curve = Learner(basis), Curve([], [])
    start = [system.parent.copy() for _ in range(N_START)]
    for atoms in start:
        atoms.positions += rng.normal(scale=system.rattle, size=atoms.positions.shape)
    plain = [system.plain[row] for row in rng.permutation(len(system.plain))]
    new, n_paid = described(basis, start), 0
    for number in range(n_rounds + 1):
        fit = learner.learn(labelled(new, system.teacher))
        n_paid += len(new)
        curve.add(n_paid, errors(fit, test))
        if number == n_rounds:
            break
        if strategy == '300 K':
            new = described(basis, plain[number * BATCH : (number + 1) * BATCH])
        else:
            pool = described(basis, explore(learner, system, [seed, number, 3]))
            new = (
                pool.take(learner.choose(strategy, pool, BATCH, (seed, number))) if len(pool) else described(basis, [])
            )
    return curve


def prepare(name: str, quick: bool) -> tuple[Basis, System, Frames]:
    """Return a system with its features and its labelled test frames.

    The inputs of the features are scaled to rattled parents: nothing of what is to be found is known beforehand.
    """
    system = {'butane': butane, 'copper': copper}[name](quick)
    basis = Basis(sorted({int(z) for z in system.parent.numbers}), system.cutoff, N_HIDDEN, seed=0)
    rng = np.random.default_rng(0)
    rattled = [system.parent.copy() for _ in range(20)]
    for atoms in rattled:
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    basis.scale_to(rattled)
    groups, frames = zip(*system.test, strict=True)
    return basis, system, labelled(described(basis, list(frames), list(groups)), system.teacher)
