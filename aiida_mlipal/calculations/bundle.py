"""The program that a CalcJob carries along: one zip archive that Python runs on the compute node.

It holds the runner and the modules of this package that it imports, nothing more, so that an edit elsewhere does not
invalidate caches. Equal sources give equal bytes: no compression, fixed order, fixed timestamps, empty ``__init__.py``.
"""

from __future__ import annotations

import ast
import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import aiida_mlipal

__all__ = ('build', 'digest', 'modules')

_PACKAGE: Final = 'aiida_mlipal'
_ROOT: Final = Path(aiida_mlipal.__file__).parent
#: Imports of the runner happen inside the ``try`` of :func:`main`, so that a package which the compute node lacks is
#: reported like any other error.
_MAIN: Final = """from aiida_mlipal.runners.main import main


def run(settings, folder):
    from aiida_mlipal.runners.{runner} import run

    return run(settings, folder)


main(run)
"""


def _source(module: str) -> Path | None:
    """Return the file of a module of this package, ``None`` if ``module`` is a package or does not exist."""
    path = _ROOT.joinpath(*module.split('.')[1:]).with_suffix('.py')
    return path if path.is_file() else None


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ('TYPE_CHECKING', 'typing.TYPE_CHECKING')


def _import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield every import below ``node``, also those inside functions, except those for the type checker only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif not _is_type_checking(child):
            yield from _import_nodes(child)


def _imported(module: str, text: str) -> Iterator[str]:
    """Yield the names of this package's modules that the source ``text`` of ``module`` imports."""
    for node in _import_nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f'{_PACKAGE}.'))
            continue
        base = node.module or ''
        if node.level:
            base = '.'.join([*module.split('.')[: -node.level], *filter(None, [base])])
        if base != _PACKAGE and not base.startswith(f'{_PACKAGE}.'):
            continue
        if _source(base) is not None:
            yield base
        else:
            yield from (f'{base}.{alias.name}' for alias in node.names)


@cache
def modules(runner: str) -> tuple[str, ...]:
    """Return the sorted names of this package's modules that ``runner`` needs.

    :raises ValueError: for an unknown runner, or a module that imports a name from a package's ``__init__``, which is
        empty in the archive.
    """
    start = [f'{_PACKAGE}.runners.main', f'{_PACKAGE}.runners.{runner}']
    if _source(start[1]) is None:
        known = sorted(path.stem for path in (_ROOT / 'runners').glob('*.py') if not path.stem.startswith('_'))
        raise ValueError(f'there is no runner `{runner}`, only {known}.')
    found: set[str] = set()
    waiting = start
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = _source(module)
        if path is None:
            raise ValueError(
                f'the runner `{runner}` imports `{module}`, which is not a module; import from the module that '
                'defines the name (the packages of the archive have an empty `__init__.py`).'
            )
        found.add(module)
        waiting.extend(_imported(module, path.read_text(encoding='utf-8')))
    return tuple(sorted(found))


def build(runner: str) -> bytes:
    """Return the archive of ``runner`` (a module of :mod:`aiida_mlipal.runners`), to be run as ``python runner.zip``.

    :raises ValueError: see :func:`modules`.
    """
    files = {'__main__.py': _MAIN.format(runner=runner).encode()}
    for module in modules(runner):
        parts = module.split('.')
        for depth in range(1, len(parts)):
            files['/'.join(parts[:depth]) + '/__init__.py'] = b''
        path = _source(module)
        assert path is not None
        files['/'.join(parts) + '.py'] = path.read_bytes().replace(b'\r\n', b'\n')
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, whatever machine builds it
            info.external_attr = 0o644 << 16
            archive.writestr(info, files[name])
    return stream.getvalue()


def digest(runner: str) -> str:
    """Return the SHA-256 of the archive of ``runner``, in hexadecimal digits."""
    return hashlib.sha256(build(runner)).hexdigest()
