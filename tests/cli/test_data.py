"""Tests of :mod:`aiida_mlipal.cli.data`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from aiida import orm
from ase.io import read
from click.testing import CliRunner

from aiida_mlipal.cli.data import data_group
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.science.configurations import Configurations
from tests.data.conftest import make_configurations, make_decision, make_model

BELOW = 'Its expected force error of 0.150 eV/Å is below the trust window (0.333).'
FIRST = 'Of the candidates left it added most to the determinant (2.5), and this sentence is long.'


def invoke(*arguments: object, ok: bool = True) -> str:
    """Run a command and return its output; it must succeed, or fail with a message and no traceback."""
    result = CliRunner().invoke(data_group, [str(argument) for argument in arguments])
    assert (result.exit_code == 0) == ok, result.output
    if not ok:
        assert isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture(scope='module')
def configurations():
    return ConfigurationsData(make_configurations(), {'code': 'pw.x', 'ecutwfc': 30.0}).store()


@pytest.fixture(scope='module')
def committee():
    members = [make_model(seed, errors={'force_rmse': 0.0321}).store() for seed in (21, 22)]
    return MlipModelData.committee(members).store()


@pytest.fixture(scope='module')
def selection():
    return SelectionData(
        replace(make_decision(), reason=['Drawn at random.', 'Second.', FIRST, BELOW]), uncertain_share=0.125
    ).store()


def test_list_newest_first(configurations):
    newer = ConfigurationsData(Configurations.empty()).store()
    lines = invoke('configurations', 'list').splitlines()
    assert lines[0].split()[:4] == ['PK', 'Created', 'Frames', 'Atoms']
    pks = [int(line.split()[0]) for line in lines[2:] if line.split()[:1] and line.split()[1:2] != ['of']]
    assert pks.index(newer.pk) < pks.index(configurations.pk)
    line = next(line for line in lines if line.split()[:1] == [str(configurations.pk)])
    assert 'H-O-Si' in line
    assert 'train 1, candidate 2' in line
    assert configurations.level_of_theory_hash in line


def test_list_limit(configurations):
    ConfigurationsData(Configurations.empty()).store()
    output = invoke('configurations', 'list', '--limit', 1)
    assert '1 of ' in output
    assert 'shows all' in output


def test_list_models_and_selections(committee, selection):
    assert any(
        line.split()[:1] == [str(committee.pk)] and 'committee' in line for line in invoke('model', 'list').splitlines()
    )
    line = next(line for line in invoke('selection', 'list').splitlines() if line.split()[:1] == [str(selection.pk)])
    assert line.split()[3:] == ['2', 'max_det', '4', '2', '1', '0.125']


def test_show_configurations(configurations):
    output = invoke('configurations', 'show', configurations.pk)
    assert 'code pw.x, ecutwfc 30' in output
    assert 'H2O' in output
    assert 'SCF did not converge' in output
    assert '-0.393' in output  # energy per atom of the one labelled frame, -pi / 8


def test_show_model(committee):
    output = invoke('model', 'show', committee.pk)
    assert 'member_01.model' in output
    assert 'force_rmse 0.0321' in output
    assert committee.sha256[1][:12] in output


def test_show_selection(selection):
    output = invoke('selection', 'show', selection.pk)
    assert 'lower 0.3333' in output
    assert [line.split()[:2] for line in output.splitlines() if line.startswith(('0 ', '1 ', '2 '))] == [
        ['0', 'fa'], ['1', 'fc'], ['2', 'fb'],
    ]  # fmt: skip
    assert FIRST in output
    assert BELOW not in output


@pytest.mark.parametrize('kind', ['configurations', 'model', 'selection'])
def test_show_what_is_not_there(kind):
    assert f'`verdi data mlipal {kind} list`' in invoke(kind, 'show', 999999, ok=False)


def test_show_another_kind_names_its_command(committee, configurations):
    output = invoke('configurations', 'show', committee.pk, ok=False)
    assert f'`verdi data mlipal model show {committee.pk}`' in output
    number = orm.Int(1).store()
    assert f'`verdi node show {number.pk}`' in invoke('model', 'show', number.pk, ok=False)


def test_export_extxyz(configurations, tmp_path):
    path = tmp_path / 'out' / 'frames.extxyz'
    invoke('configurations', 'export', configurations.pk, '-o', path)
    frames = read(path, ':')
    assert [len(frame) for frame in frames] == [8, 2, 3]
    assert frames[0].info['REF_energy'] == pytest.approx(-np.pi)
    assert frames[0].arrays['REF_forces'].shape == (8, 3)
    assert 'REF_energy' not in frames[1].info


def test_export_npz(configurations, tmp_path):
    path = tmp_path / 'frames.npz'
    invoke('configurations', 'export', configurations.pk, '-o', path)
    assert Configurations.load(path).frame_id.tolist() == configurations.configurations.frame_id.tolist()


def test_export_refuses_unknown_formats_and_existing_files(configurations, tmp_path):
    assert '-o frames.extxyz' in invoke(
        'configurations', 'export', configurations.pk, '-o', tmp_path / 'frames.cif', ok=False
    )
    (tmp_path / 'frames.npz').touch()
    assert 'exists' in invoke('configurations', 'export', configurations.pk, '-o', tmp_path / 'frames.npz', ok=False)


def test_export_models(committee, tmp_path):
    invoke('model', 'export', committee.pk, '-o', tmp_path / 'models')
    assert (tmp_path / 'models' / 'member_01.model').read_bytes() == b'weights of 22'
    single = make_model(31).store()
    invoke('model', 'export', single.pk, '-o', tmp_path / 'silicon.model')
    assert (tmp_path / 'silicon.model').read_bytes() == b'weights of 31'
    assert 'give a folder' in invoke('model', 'export', committee.pk, '-o', tmp_path / 'other.model', ok=False)


def test_export_selection(selection, tmp_path):
    invoke('selection', 'export', selection.pk, '-o', tmp_path / 'rows.csv')
    with (tmp_path / 'rows.csv').open(newline='') as handle:
        rows = list(csv.DictReader(handle))
    assert [row['frame_id'] for row in rows] == ['fa', 'fb', 'fc', 'fd']
    assert float(rows[1]['uncertainty']) == 0.2
    assert rows[3]['reason'] == BELOW
    invoke('selection', 'export', selection.pk, '-o', tmp_path / 'rows.json')
    content = json.loads((tmp_path / 'rows.json').read_text())
    assert content['n_selected'] == 2
    assert content['candidates'][1]['distance'] is None  # infinite: no training frame is near
    assert content['candidates'][2]['rank'] == 1


def test_verdi_finds_the_group():
    """The entry point is loaded by verdi itself, without numpy, so that tab completion stays fast."""
    program = (
        'import sys; from aiida.cmdline.commands.cmd_verdi import verdi\n'
        "try: verdi(['data', 'mlipal', 'selection', '--help'])\n"
        "except SystemExit: print('heavy:', [name for name in ('numpy', 'ase', 'torch') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True).stdout
    assert 'export' in output
    assert 'heavy: []' in output
