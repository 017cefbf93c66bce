"""The archive that a job carries."""

import io
import json
import subprocess
import sys
import zipfile

import pytest

from aiida_mlipal.calculations import bundle


def _names(content: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(content)).namelist())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with every kind of import, in place of the real one."""
    files = {
        '__init__.py': '__version__ = "1"',
        'runners/main.py': 'import json',
        'runners/demo.py': (
            'from __future__ import annotations\n'
            'from typing import TYPE_CHECKING\n'
            'import aiida_mlipal.science.plain\n'
            'from aiida_mlipal.science import module\n'
            'from .sibling import name\n'
            'if TYPE_CHECKING:\n    from aiida_mlipal.science.types import T\n'
            'def run(settings, folder):\n    from ..science.inner import x\n'
        ),
        'runners/sibling.py': 'name = 1',
        'runners/other.py': 'import aiida_mlipal.science.unused',
        **{f'science/{name}.py': '' for name in ('plain', 'module', 'types', 'inner', 'unused')},
        'runners/wrong.py': 'from aiida_mlipal import __version__',
    }
    for name, text in files.items():
        path = tmp_path / 'aiida_mlipal' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(bundle, '_ROOT', tmp_path / 'aiida_mlipal')
    bundle.modules.cache_clear()
    yield tmp_path / 'aiida_mlipal'
    bundle.modules.cache_clear()


def test_holds_what_is_imported_and_nothing_else(package):
    assert _names(bundle.build('demo')) == {
        '__main__.py',
        'aiida_mlipal/__init__.py',
        'aiida_mlipal/runners/__init__.py',
        'aiida_mlipal/runners/main.py',
        'aiida_mlipal/runners/demo.py',
        'aiida_mlipal/runners/sibling.py',
        'aiida_mlipal/science/__init__.py',
        'aiida_mlipal/science/plain.py',
        'aiida_mlipal/science/module.py',
        'aiida_mlipal/science/inner.py',
    }


def test_bytes_depend_on_what_is_inside_only(package):
    before = bundle.build('demo')
    (package / '__init__.py').write_text('__version__ = "2"')
    (package / 'science' / 'unused.py').write_text('x = 1')
    (package / 'science' / 'plain.py').touch()
    assert bundle.build('demo') == before
    (package / 'science' / 'plain.py').write_text('x = 1')
    assert bundle.build('demo') != before


def test_line_endings_do_not_matter(package):
    (package / 'science' / 'plain.py').write_bytes(b'x = 1\n')
    before = bundle.digest('demo')
    (package / 'science' / 'plain.py').write_bytes(b'x = 1\r\n')
    assert bundle.digest('demo') == before


def test_a_name_from_an_init_is_refused(package):
    with pytest.raises(ValueError, match=r'imports `aiida_mlipal.__version__`, which is not a module'):
        bundle.build('wrong')


def test_unknown_runner():
    with pytest.raises(ValueError, match=r"no runner `trian`, only \[.*'train'"):
        bundle.build('trian')


def test_the_installed_package_has_no_influence(tmp_path):
    (tmp_path / 'runner.zip').write_bytes(bundle.build('train'))
    script = (
        "import sys; sys.path.insert(0, 'runner.zip'); import aiida_mlipal.runners.train, aiida_mlipal\n"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.startswith('aiida_mlipal')], sep='\\n')\n"
        "assert not {'aiida', 'torch', 'mace', 'yaml', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, '-I', '-c', script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    files = done.stdout.split()
    assert len(files) > 5
    assert all('runner.zip' in file for file in files)


def test_a_missing_package_is_reported_like_any_error(tmp_path):
    (tmp_path / 'runner.zip').write_bytes(bundle.build('train'))
    (tmp_path / 'settings.json').write_text('{}')
    # -S: without site-packages there is neither ase nor numpy
    done = subprocess.run([sys.executable, '-I', '-S', 'runner.zip'], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    result = json.loads((tmp_path / 'result.json').read_text())
    assert (result['status'], result['kind']) == ('error', 'missing_package')
    assert 'No module named' in result['error']
