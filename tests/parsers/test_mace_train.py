"""Parser of a committee's training."""

from __future__ import annotations

import hashlib
import json

import pytest
from aiida.engine import run_get_node
from aiida.orm import ArrayData, Dict

from aiida_mlipal.calculations.mace_train import MaceTrainCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from tests.parsers.jobs import finished_job, parse, result_json
from tests.runners.training import TINY, copper

ENTRY_POINT = 'mlipal.mace.train'
THEORY = {'code': 'emt'}


@pytest.mark.codes
def test_a_whole_job(python_code):
    dataset = ConfigurationsData(copper(), level_of_theory=THEORY)
    builder = MaceTrainCalculation.get_builder()
    builder.code = python_code
    builder.dataset = dataset
    builder.settings = Dict({**TINY, 'seeds': [11, 12]})
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message

    assert sorted(outputs['models']) == ['member_00', 'member_01']
    for name, seed in (('member_00', 11), ('member_01', 12)):
        model = outputs['models'][name]
        assert isinstance(model, MlipModelData)
        assert (model.kind, model.seeds, model.elements) == ('member', [seed], ['Cu'])
        assert model.level_of_theory_hash == dataset.base.attributes.get('level_of_theory_hash') != ''
        assert model.base.attributes.get('software')['mace-torch'].startswith('0.3')
        errors = model.base.attributes.get('errors')
        assert errors == outputs['results']['members'][name]['errors']
        assert errors['valid']['force_rmse'] > 0
    committee = MlipModelData.committee(list(outputs['models'].values()))
    assert committee.n_members == 2

    results = outputs['results'].get_dict()
    assert set(results['valid_frame_ids']) <= set(dataset.configurations.frame_id)
    assert results['e0s'] == {'Cu': pytest.approx(dataset.configurations.energy[-1])}
    history = outputs['history']
    assert isinstance(history, ArrayData)
    assert history.get_array('member_01_epoch').tolist() == [0, 1, 2]
    assert history.get_array('member_01_force_rmse').shape == (3,)

    # The program and the settings are kept with the job, the models and the data only in their own nodes.
    assert set(node.base.repository.list_object_names()) >= {'runner.zip', 'settings.json'}
    assert 'dataset.npz' not in node.base.repository.list_object_names()
    assert set(outputs['retrieved'].base.repository.list_object_names()) >= {'result.json', 'runner.log', 'member_00'}
    assert 'member_00.model' not in outputs['retrieved'].base.repository.list_object_names()
    assert 'Epoch 2' in outputs['retrieved'].base.repository.get_object_content('member_00/train.log')


def _member(seed, content=b'model'):
    return {
        'status': 'ok', 'seed': seed, 'elements': ['Cu'], 'r_max': 4.5, 'dtype': 'float32', 'errors': {},
        'architecture': {'r_max': 4.5},
        'sha256': hashlib.sha256(content).hexdigest(),
    }  # fmt: skip


def _failed(seed, kind='non_finite'):
    return {'status': 'failed', 'seed': seed, 'kind': kind, 'reason': 'the loss is nan'}


def _job(computer, members, files=None, **settings):
    return finished_job(
        computer,
        ENTRY_POINT,
        {'result.json': result_json(members=members), **(files or {})},
        {'dataset': ConfigurationsData(copper(2)), 'settings': Dict({'seeds': [1, 2], **settings})},
    )


def test_some_members_failed(aiida_localhost, tmp_path):
    (tmp_path / 'member_00.model').write_bytes(b'model')
    log = json.dumps({'mode': 'eval', 'epoch': 0, 'loss': 2.0, 'rmse_f': 0.5, 'head': 'Default'})
    files = {'member_01/results/member_01_run-2_train.txt': log + '\n'}
    node = _job(aiida_localhost, {'member_00': _member(1), 'member_01': _failed(2)}, files)
    outputs, exit_code = parse(node, tmp_path)
    assert exit_code.status == 410
    assert exit_code.message.startswith(
        'member_01 could not be trained, the other members are there: member_01 (seed 2)'
    )
    assert outputs['models.member_00'].seeds == [1]
    assert 'models.member_01' not in outputs
    assert outputs['results']['members']['member_01']['reason'] == 'the loss is nan'
    assert outputs['history'].get_array('member_01_force_rmse').tolist() == [0.5]


@pytest.mark.parametrize(('kinds', 'status'), [(('non_finite', 'out_of_memory'), 400), (('out_of_memory',) * 2, 311)])
def test_all_members_failed(aiida_localhost, tmp_path, kinds, status):
    members = {f'member_{i:02d}': _failed(i, kind) for i, kind in enumerate(kinds)}
    outputs, exit_code = parse(_job(aiida_localhost, members), tmp_path)
    assert exit_code.status == status
    assert 'member_01 (seed 1): the loss is nan' in exit_code.message
    assert set(outputs) == {'results'}


def test_a_model_that_is_not_the_one_that_was_written(aiida_localhost, tmp_path):
    (tmp_path / 'member_00.model').write_bytes(b'half a mod')
    outputs, exit_code = parse(_job(aiida_localhost, {'member_00': _member(1)}), tmp_path)
    assert exit_code.status == 301
    assert 'SHA-256' in exit_code.message
    assert 'models.member_00' not in outputs


def test_the_hash_of_the_settings(aiida_localhost, tmp_path):
    """It is the same for members that differ in their seeds only, or in whether defaults are written out."""
    (tmp_path / 'member_00.model').write_bytes(b'model')

    def settings_hash(**settings):
        outputs, _ = parse(_job(aiida_localhost, {'member_00': _member(1)}, **settings), tmp_path)
        return outputs['models.member_00'].base.attributes.get('settings_hash')

    assert settings_hash() == settings_hash(seeds=[5]) == settings_hash(dtype='float32')
    assert settings_hash() != settings_hash(dtype='float64')
