"""Fixtures for tests of workflows: real codes on the local computer, small structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.common.exceptions import NotExistent
from ase import Atoms
from ase.build import bulk

from tests.calculations.conftest import committee_node  # noqa: F401


def local_code(computer: orm.Computer, label: str, executable: str, plugin: str) -> orm.InstalledCode:
    """Return the serial code ``label``, the same for all tests of a session."""
    try:
        return orm.load_code(f'{label}@{computer.label}')
    except NotExistent:
        return orm.InstalledCode(
            label=label,
            computer=computer,
            filepath_executable=executable,
            default_calc_job_plugin=plugin,
            prepend_text='export OMP_NUM_THREADS=1',
            with_mpi=False,
        ).store()


def rattled_silicon(n_frames: int, seed: int) -> list[Atoms]:
    """Return primitive cells with displaced atoms."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = bulk('Si', a=5.43)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        frames.append(atoms)
    return frames


@pytest.fixture
def pw_code(aiida_localhost, pw_executable):
    """Return an InstalledCode for pw.x on the local computer."""
    return local_code(aiida_localhost, 'pw', pw_executable, 'quantumespresso.pw')


@pytest.fixture
def pw_wrapped(aiida_localhost, pw_executable, tmp_path):
    """Return a function that makes a code of a bash script around pw.x, which the script finds in ``$PW``."""

    def make(script: str) -> orm.InstalledCode:
        path = tmp_path / 'pw.sh'
        path.write_text(f'#!/bin/bash\nPW={pw_executable}\nexport OMP_NUM_THREADS=1\n{script}')
        path.chmod(0o755)
        return orm.InstalledCode(
            label='pw-wrapped',
            computer=aiida_localhost,
            filepath_executable=str(path),
            default_calc_job_plugin='quantumespresso.pw',
            with_mpi=False,
        ).store()

    return make


@pytest.fixture
def pseudo_family(pseudo_dir, tmp_path_factory) -> str:
    """Return the label of a pseudopotential family with hydrogen, aluminium, silicon and iron, LDA."""
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    label = 'debian-pz'
    if not orm.QueryBuilder().append(PseudoPotentialFamily, filters={'label': label}).count():
        folder: Path = tmp_path_factory.mktemp('pseudos')
        for name in ('H.pz-vbc.UPF', 'Al.pz-vbc.UPF', 'Si.pz-vbc.UPF', 'Fe.pz-nd-rrkjus.UPF'):
            (folder / name).write_bytes((pseudo_dir / name).read_bytes())
        PseudoPotentialFamily.create_from_folder(folder, label, pseudo_type=UpfData)
    return label


@pytest.fixture
def silicon() -> orm.StructureData:
    """Return the primitive cell of silicon: two atoms, a pw.x run of half a second."""
    return orm.StructureData(ase=bulk('Si', a=5.43))


@pytest.fixture
def quick_pw_label(silicon, pw_code, pseudo_family):
    """Return the ``label`` inputs of quick pw.x calculations."""
    from aiida_mlipal.workflows.engines import load_engine

    settings = {
        'pseudo_family': pseudo_family,
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
    options = {
        'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1},
        'withmpi': False,
        'max_wallclock_seconds': 600,
    }
    return {
        'engine': orm.Str('quantumespresso'),
        'engine_inputs': load_engine('quantumespresso').build(pw_code, [silicon], settings, options),
        'checks': orm.Dict({'max_force': 100.0, 'max_failed_share': 0.9}),
        'max_concurrent': orm.Int(2),
    }
