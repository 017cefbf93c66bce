"""What every runner shares."""

import json

import numpy as np
import pytest

from aiida_mlipal.runners.main import SettingsRefused, error_kind, main, to_json


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'settings.json').write_text('{"x": 2, "device": "cpu"}')
    return tmp_path


def _result(folder):
    return json.loads((folder / 'result.json').read_text())


def test_a_good_run(folder):
    main(lambda settings, where: {'twice': np.float64(2 * settings['x']), 'where': str(where), 'wall_s': 7.0})
    result = _result(folder)
    assert result['status'] == 'ok'
    assert result['twice'] == 4.0
    assert result['where'] == str(folder)
    assert result['wall_s'] == 7.0  # what a runner measures itself wins
    assert result['device'] == 'cpu'
    assert result['software']['numpy'] == np.__version__


def test_a_failed_run(folder, capsys):
    def run(settings, where):
        raise ValueError(f'x is {settings["x"]}')

    with pytest.raises(SystemExit) as exit_info:
        main(run)
    assert exit_info.value.code == 1
    result = _result(folder)
    assert (result['status'], result['kind'], result['error']) == ('error', 'exception', 'ValueError: x is 2')
    assert 'in run' in result['traceback']
    assert 'x is 2' in capsys.readouterr().err


def test_settings_that_are_missing(folder):
    (folder / 'settings.json').unlink()
    with pytest.raises(SystemExit):
        main(lambda settings, where: {})
    assert 'settings.json' in _result(folder)['error']


class OutOfMemoryError(RuntimeError):
    """Like the one of torch."""


@pytest.mark.parametrize(
    ('exception', 'kind'),
    [
        (MemoryError(), 'out_of_memory'),
        (OutOfMemoryError('CUDA'), 'out_of_memory'),
        (RuntimeError('CUDA error: out of memory'), 'out_of_memory'),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 'out_of_memory'),
        (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'), 'out_of_memory'),
        (RuntimeError('std::bad_alloc'), 'out_of_memory'),
        (FloatingPointError('nan'), 'non_finite'),
        (ModuleNotFoundError("No module named 'mace'"), 'missing_package'),
        (SettingsRefused('no such option'), 'settings_refused'),
        (RuntimeError('something'), 'exception'),
    ],
)
def test_kinds(exception, kind):
    assert error_kind(exception) == kind


def test_to_json_leaves_only_what_a_database_takes():
    values = {'a': np.arange(2), 'b': (np.float32(0.5), float('nan')), 1: np.array([np.inf, 1.0]), 'c': np.bool_(True)}
    assert to_json(values) == {'a': [0, 1], 'b': [0.5, None], '1': [None, 1.0], 'c': True}
