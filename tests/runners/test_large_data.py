"""Training from a database instead of extended XYZ: the same training, without all graphs in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111

from aiida_mlipal.runners.large_data import MAX_GRAPH_BYTES, graph_bytes, load_frames, write_database
from aiida_mlipal.science.configurations import Configurations
from tests.runners.training import TINY, copper, lennard_jones

pytestmark = pytest.mark.codes

#: What a job runs, with another limit.
PROGRAM = """
import json
from pathlib import Path
from aiida_mlipal.runners import train
from aiida_mlipal.runners.main import main
train.MAX_GRAPH_BYTES = {limit}
main(train.run)
"""


def _rounded(frames: Configurations) -> Configurations:
    """Return frames with the decimals that extended XYZ keeps."""
    return frames.with_columns(positions=frames.positions.round(8), forces=frames.forces.round(8))


def _start(folder, limit, **settings):
    folder.mkdir()
    _rounded(copper(10)).save(folder / 'dataset.npz')
    _rounded(lennard_jones(9)).save(folder / 'other_lj.npz')
    (folder / 'settings.json').write_text(json.dumps({**TINY, 'seeds': [3], 'ema_decay': 0.9, **settings}))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.getcwd()}
    with (folder / 'runner.log').open('wb') as log:
        return subprocess.Popen(
            [sys.executable, '-c', PROGRAM.format(limit=limit)],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _records(folder):
    (path,) = folder.glob('member_00/results/*_train.txt')
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != 'time'} for record in records]


@pytest.fixture(scope='module')
def folders(tmp_path_factory, compute_python):
    """Return the folders of one and the same training of two heads, from extended XYZ and from databases."""
    root = tmp_path_factory.mktemp('large')
    processes = {name: _start(root / name, limit) for name, limit in (('xyz', MAX_GRAPH_BYTES), ('database', 0))}
    for name, process in processes.items():
        assert process.wait(400) == 0, (root / name / 'runner.log').read_text()
        member = json.loads((root / name / 'result.json').read_text())['members']['member_00']
        assert member['status'] == 'ok', member
    return root / 'xyz', root / 'database'


def test_every_loss_and_weight_is_the_same(folders):
    xyz, database = folders
    assert {path.name for path in database.glob('*.aselmdb')} == {
        'train.aselmdb', 'valid.aselmdb', 'train_lj.aselmdb', 'valid_lj.aselmdb',
    }  # fmt: skip
    assert not list(database.glob('*.xyz'))
    assert _records(xyz) == _records(database)
    ours, theirs = (torch.load(path / 'member_00.model', weights_only=False).state_dict() for path in folders)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_errors_are_the_same(folders):
    """Of the model that is handed over, on all frames of both heads."""
    members = [json.loads((path / 'result.json').read_text())['members']['member_00'] for path in folders]
    for kind in ('errors', 'head_errors'):
        assert members[0][kind] == members[1][kind]


def test_numbers_are_kept_to_the_last_bit(tmp_path, compute_python):
    slab = fcc111('Cu', (1, 1, 3), vacuum=5.0)  # without a stress: one of its directions does not repeat
    frames = Configurations.concatenate([copper(4), _labelled(slab)])
    write_database(frames, tmp_path / 'x.aselmdb')
    found = load_frames(tmp_path / 'x.aselmdb')
    assert len(found) == len(frames) == len(list(found))
    for atoms, given in zip(found, frames.to_atoms(), strict=True):
        results = given.calc.results
        for name in ('numbers', 'positions', 'pbc'):
            assert np.array_equal(getattr(atoms, name), getattr(given, name))
        assert np.array_equal(atoms.cell.array, given.cell.array)
        assert atoms.info['REF_energy'] == results['energy']
        assert np.array_equal(atoms.arrays['REF_forces'], results['forces'])
        stress = results.get('stress') if given.pbc.all() else None
        assert (
            np.array_equal(atoms.info.get('REF_stress'), stress)
            if stress is not None
            else ('REF_stress' not in atoms.info)
        )


def test_frames_of_a_database_are_a_sequence(tmp_path, compute_python):
    write_database(copper(4), tmp_path / 'x.aselmdb')
    found = load_frames(tmp_path / 'x.aselmdb')
    assert [len(atoms) for atoms in found[1:5]] == [4, 4, 4, 1]
    assert found[-1] == found[4]
    with pytest.raises(IndexError):
        found[5]


def test_what_graphs_take(compute_python):
    """Against the bytes of MACE's own graphs."""
    from mace import data
    from mace.tools import AtomicNumberTable

    frames = copper(3)
    atoms = frames.to_atoms()[:3]
    table = AtomicNumberTable([29])
    pairs = [
        data.AtomicData.from_config(data.config_from_atoms(frame), z_table=table, cutoff=6.0).edge_index.shape[1]
        for frame in atoms
    ]
    found = graph_bytes(frames.take(range(3)), r_max=6.0) - graph_bytes(frames.take(range(3)), r_max=1e-9)
    assert found == pytest.approx(40 * sum(pairs), rel=0.1)


def _labelled(atoms: Atoms) -> Configurations:
    frames = Configurations.from_atoms([atoms])
    forces = np.random.default_rng(1).normal(size=(len(atoms), 3))
    return frames.with_columns(energy=[-1.0 / 3], forces=forces, stress=np.ones((1, 6)), status=['labelled'])


def test_the_head_of_frames_in_hdf5_is_lost(tmp_path, compute_python):
    """The fault for which HDF5 is not used; if this fails, MACE has mended it."""
    import h5py
    from mace import data
    from mace.data.utils import save_configurations_as_HDF5
    from mace.tools import AtomicNumberTable

    path = tmp_path / 'x.h5'
    with h5py.File(path, 'w') as file:
        save_configurations_as_HDF5([data.config_from_atoms(atoms) for atoms in copper(2).to_atoms()], 0, file)
    heads = {'heads': ['lj', 'Default'], 'head': 'lj'}
    found = data.HDF5Dataset(str(path), r_max=4.5, z_table=AtomicNumberTable([29]), **heads)[0]
    assert heads['heads'][int(found.head)] == 'Default'
