"""``aiida-mlipal import``: a file becomes a dataset, once."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from click.testing import CliRunner

from aiida_mlipal.cli import main
from aiida_mlipal.provenance.lineage import trace


@pytest.fixture
def files(tmp_path):
    frames = []
    for seed in range(3):
        atoms = bulk('Al', cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        copy = atoms.copy()
        copy.info.update(REF_energy=atoms.get_potential_energy())
        copy.arrays['REF_forces'] = atoms.get_forces()
        frames.append(copy)
    write(tmp_path / 'frames.xyz', frames, format='extxyz')
    (tmp_path / 'level.yaml').write_text('code: asap\nfunctional: EMT\n')
    return tmp_path / 'frames.xyz', tmp_path / 'level.yaml'


def _invoke(*arguments: object, ok: bool = True) -> str:
    result = CliRunner().invoke(main, ['import', *map(str, arguments)])
    assert (result.exit_code == 0) == ok, result.output
    return result.output


def _n_nodes() -> int:
    return orm.QueryBuilder().append(orm.Node).count()


def test_a_file_becomes_a_dataset_once(files, aiida_profile):
    path, level = files
    arguments = (path, '--level-of-theory', level, '--e0s', 'Al=-1.5')
    output = _invoke(*arguments)
    assert '4 frames of Al, 0 rejected, 1 isolated atoms' in output
    assert 'imported as dataset' in output
    dataset = orm.load_node(int(output.split()[-1]))
    assert dataset.level_of_theory == {'code': 'asap', 'declared': True, 'functional': 'EMT'}
    frames = dataset.configurations
    assert frames.origin.tolist() == ['import'] * 3 + ['declared']
    assert frames.energy[3] == -1.5
    assert frames.is_labelled.all()
    lineage = trace(dataset)
    assert lineage.gaps == []
    assert 'SinglefileData' in {item.kind for item in lineage.supplied}
    before = _n_nodes()
    again = _invoke(*arguments)
    assert f'imported before, as dataset {dataset.pk}' in again
    assert _n_nodes() == before
    assert 'imported as' in _invoke(path, '--level-of-theory', level, '--e0s', 'Al=-1.6')


def test_training_reads_the_declared_energies(files, aiida_profile):
    from aiida_mlipal.science.atomic_energies import from_isolated_atoms

    path, level = files
    output = _invoke(path, '--level-of-theory', level, '--e0s', 'Al=-1.5')
    assert from_isolated_atoms(orm.load_node(int(output.split()[-1])).configurations) == {13: -1.5}


@pytest.mark.parametrize(
    ('level', 'e0s', 'message'),
    [
        ('functional: PBE', '', 'the level of theory lacks `code`'),
        ('- PBE', '', 'expected `key: value` lines'),
        ('{', '', 'is no YAML'),
        ('code: vasp\nfunctional: PBE', 'Al', '`--e0s`: found `Al`, expected'),
        ('code: vasp\nfunctional: PBE', 'Xx=1', "['Xx'] are no elements"),
    ],
)
def test_bad_input_stores_nothing(files, aiida_profile, level, e0s, message):
    path, file = files
    file.write_text(level)
    before = _n_nodes()
    assert message in _invoke(path, '--level-of-theory', file, '--e0s', e0s, ok=False)
    assert _n_nodes() == before


def test_missing_forces(files, aiida_profile):
    path, level = files
    atoms = bulk('Al')
    atoms.info['REF_energy'] = np.pi
    write(path, atoms, format='extxyz')
    assert 'has no forces under REF_forces or forces' in _invoke(path, '--level-of-theory', level, ok=False)
