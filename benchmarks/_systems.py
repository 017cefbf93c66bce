"""What the closed loops of `label_efficiency.py` simulate, by whom it is labelled, and on what it is tested.

Both systems start from next to nothing. Butane starts from its minimum, slightly rattled, and is tested on dynamics of
the teacher (GFN2-xTB) at 600 K and on scans of its torsions. Copper starts from its rattled crystal and is tested on
melts, vacancies and strained cells of the teacher (EMT of ASE).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from aiida_mlipal.runners.label import compute
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.filters import too_close
from aiida_mlipal.science.label_checks import LabelChecks, check_labels
from aiida_mlipal.science.label_log import read_labels
from aiida_mlipal.science.label_settings import LabelSettings, calculator_class

#: Steps of plain dynamics, and between two frames: enough for six rounds.
PLAIN_STEPS, PLAIN_STRIDE = 3600, 10
#: u, in dynamics of the teacher: what is visited at a temperature does not depend on masses, and steps can be longer.
HYDROGEN_MASS = 4.0


@dataclass
class System:
    """A system of the closed loops."""

    name: str
    teacher: LabelSettings
    parent: Atoms
    rattle: float  #: Å, of the first frames
    exploration: dict[str, Any]  #: temperatures and steps, as in a campaign file
    cutoff: float  #: Å, of the models
    test: Configurations  #: labelled; `origin` is the group
    plain: list[Atoms]  #: dynamics of the teacher at 300 K, from the parent


def labelled(
    frames: Configurations, teacher: LabelSettings, expected: Mapping[str, float] | None = None
) -> Configurations:
    """Return the frames with labels as a campaign computes and judges them; those that fail are rejected rows.

    :param expected: energies that the model predicts, eV, by ``frame_id``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'labels.jsonl'
        path.write_text('\n'.join(json.dumps(line) for line in compute(frames, range(len(frames)), teacher)))
        labels, _ = read_labels(path, frames)
    return check_labels(labels, LabelChecks(), expected)


def calculator(teacher: LabelSettings) -> Any:
    """Return the teacher as a calculator."""
    return calculator_class(teacher)(**teacher.parameters)


def teacher_dynamics(
    atoms: Atoms, teacher: LabelSettings, kelvin: float, timestep: float, n_steps: int, stride: int, seed: int
) -> list[Atoms]:
    """Return every ``stride``-th frame of Langevin dynamics of the teacher, the first third left out."""
    atoms = atoms.copy()
    atoms.set_masses(np.where(atoms.numbers == 1, HYDROGEN_MASS, atoms.get_masses()))
    atoms.calc = calculator(teacher)
    rng = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(
        atoms, timestep * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    found: list[Atoms] = []

    def keep() -> None:
        found.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))

    dynamics.attach(keep, interval=stride)
    dynamics.run(n_steps)
    return found[len(found) // 3 :]


def _test_set(groups: Mapping[str, list[Atoms]], teacher: LabelSettings) -> Configurations:
    """Return the labelled frames of all groups."""
    frames = [atoms for some in groups.values() for atoms in some]
    origin = [group for group, some in groups.items() for _ in some]
    labels = labelled(Configurations.from_atoms(frames, role='test', origin=origin), teacher)
    return labels.take(labels.is_labelled)


def butane(quick: bool) -> System:
    """Return butane with GFN2-xTB."""
    teacher = LabelSettings(calculator='tblite', parameters={'method': 'GFN2-xTB', 'verbosity': 0})
    atoms = molecule('trans-butane', vacuum=10.0)  # matscipy looks for neighbours in a cell, periodic or not
    atoms.calc = calculator(teacher)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    parent = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell)
    chain = _chain(parent)
    scans = []
    for a, b, c, d in ((*chain,), (_hydrogen_of(parent, chain[0]), *chain[:3])):
        beyond = _beyond(parent, b, c)
        for angle in np.arange(0, 360, 15):
            frame = parent.copy()
            frame.set_dihedral(a, b, c, d, angle, indices=beyond)
            if not too_close(frame.numbers, frame.positions, frame.cell, frame.pbc, 0.8):
                scans.append(frame)
    n_steps = 1000 if quick else 3000
    return System(
        name='butane',
        teacher=teacher,
        parent=parent,
        rattle=0.03,
        exploration={'temperatures': [300.0, 600.0, 600.0, 900.0], 'n_steps': 500, 'stride': 25, 'time_step': 1.0},
        cutoff=4.5,
        test=_test_set(
            {'torsion': scans, '600 K': teacher_dynamics(parent, teacher, 600.0, 1.5, n_steps, 20, seed=1)}, teacher
        ),
        plain=teacher_dynamics(parent, teacher, 300.0, 1.5, PLAIN_STEPS, PLAIN_STRIDE, seed=2),
    )


def _bonds(atoms: Atoms, index: int) -> list[int]:
    """Return the neighbours of an atom within the length of a bond."""
    distances = atoms.get_distances(index, range(len(atoms)))
    limits = np.where((atoms.numbers == 1) | (atoms.numbers[index] == 1), 1.25, 1.75)
    return [int(row) for row in np.flatnonzero((distances > 0.1) & (distances < limits))]


def _chain(atoms: Atoms) -> list[int]:
    """Return the carbon atoms from one end to the other."""
    carbons = np.flatnonzero(atoms.numbers == 6)
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
    teacher = LabelSettings(calculator='emt')
    parent = bulk('Cu', cubic=True).repeat((2, 2, 2))
    n_steps, rng = (200 if quick else 600), np.random.default_rng(3)
    wide = parent.copy()
    wide.set_cell(1.03 * parent.cell.array, scale_atoms=True)
    vacancy = parent.copy()
    del vacancy[0]
    strained = []
    for _ in range(12 if quick else 30):
        strain = rng.uniform(-0.06, 0.06, size=(3, 3))
        frame = parent.copy()
        frame.set_cell(parent.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        frame.positions += rng.normal(scale=0.05, size=frame.positions.shape)
        strained.append(frame)
    groups = {
        # Hot enough to lose the order of the crystal within a picosecond.
        'melt': teacher_dynamics(wide, teacher, 3000.0, 4.0, n_steps, 20, seed=1),
        'vacancy': teacher_dynamics(vacancy, teacher, 900.0, 4.0, n_steps, 20, seed=2),
        'strained': strained,
    }
    return System(
        name='copper',
        teacher=teacher,
        parent=parent,
        rattle=0.05,
        exploration={'temperatures': [300.0, 900.0, 1800.0, 3000.0], 'n_steps': 120, 'stride': 6, 'time_step': 4.0},
        cutoff=4.0,
        test=_test_set(groups, teacher),
        plain=teacher_dynamics(parent, teacher, 300.0, 4.0, PLAIN_STEPS, PLAIN_STRIDE, seed=4),
    )


SYSTEMS = {'butane': butane, 'copper': copper}
