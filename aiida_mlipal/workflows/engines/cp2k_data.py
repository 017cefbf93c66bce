"""CP2K's files of Gaussian basis sets and GTH pseudopotentials: which entries they have, and what those say."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ('Entry', 'data_folder', 'entry_names', 'find_entry', 'read_entries', 'select_entries')

#: Where Debian's package cp2k-data puts the files.
_DEBIAN: Final = '/usr/share/cp2k'
_HEADER: Final = re.compile(r'\s*([A-Z][a-z]?)((?:\s+[^\s#]+)+)')


@dataclass(frozen=True)
class Entry:
    """The basis set or the potential of one element: all its names, the longest form of them, and its numbers."""

    element: str
    names: tuple[str, ...]
    body: str

    @property
    def name(self) -> str:
        """The name that also says how many electrons are not in the core (``-q6``), where there is one."""
        return next((name for name in self.names if re.search(r'-q\d+$', name)), self.names[0])

    @property
    def n_electrons(self) -> int | None:
        """Electrons that are not in the core, as the name says; ``None`` if it does not say."""
        match = re.search(r'-q(\d+)$', self.name)
        return int(match[1]) if match else None

    @property
    def md5(self) -> str:
        """MD5 of the numbers, however they are laid out in the file."""
        return hashlib.md5(' '.join(self.body.split()).encode(), usedforsecurity=False).hexdigest()

    @property
    def text(self) -> str:
        """The entry as CP2K reads it."""
        return f'{self.element} {" ".join(self.names)}\n{self.body}\n'


def read_entries(text: str) -> list[Entry]:
    """Return all entries of a file of basis sets or potentials."""
    entries: list[Entry] = []
    header: tuple[str, tuple[str, ...]] | None = None
    body: list[str] = []
    for line in [*text.splitlines(), 'X end']:
        content = line.split('#')[0].rstrip()
        match = _HEADER.fullmatch(content)
        if match is not None:
            if header is not None:
                entries.append(Entry(*header, '\n'.join(body)))
            header, body = (match[1], tuple(match[2].split())), []
        elif content:
            body.append(content)
    return entries


def find_entry(entries: Iterable[Entry], element: str, name: str) -> Entry | None:
    """Return the entry of ``element`` that has this name, or ``None``."""
    return next((entry for entry in entries if entry.element == element and name in entry.names), None)


def entry_names(value: str | list[str]) -> list[str]:
    """Return the names in the ``BASIS_SET`` or ``POTENTIAL`` of a KIND section, without a type such as ``ORB``."""
    return [item.split()[-1] for item in ([value] if isinstance(value, str) else value)]


def data_folder(given: str | None) -> Path:
    """Return the folder with CP2K's data files: as given, ``$CP2K_DATA_DIR``, or that of Debian's package.

    :raises ValueError: if it does not exist.
    """
    folder = Path(given or os.environ.get('CP2K_DATA_DIR') or _DEBIAN)
    if not folder.is_dir():
        raise ValueError(
            f'there is no folder `{folder}` with the basis sets and potentials of CP2K: set `data_dir` in the label '
            'section to the folder `data` of your CP2K (a copy on this machine), or run `apt install cp2k-data`.'
        )
    return folder


def select_entries(folder: Path, files: str | list[str], kinds: dict[str, dict[str, Any]], keyword: str) -> str:
    """Return the text of those entries that ``kinds`` name, one after the other.

    :param files: names of files in ``folder``.
    :param kinds: KIND sections by element.
    :param keyword: ``BASIS_SET`` or ``POTENTIAL``.
    :raises ValueError: if a file or an entry is missing, with the nearest names that exist.
    """
    names = [files] if isinstance(files, str) else list(files)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f'`{keyword}_FILE_NAME`: there is no file {", ".join(missing)} in {folder}; set `data_dir`.')
    entries = [entry for name in names for entry in read_entries((folder / name).read_text(encoding='utf-8'))]
    texts = []
    for element, kind in sorted(kinds.items()):
        if keyword not in kind:
            raise ValueError(
                f'no {keyword} for {element}: add `{{_: {element}, {keyword}: ...}}` to FORCE_EVAL.SUBSYS.KIND of the '
                'label parameters; the item `_: DEFAULT` is for all elements that have none of their own.'
            )
        for name in entry_names(kind[keyword]):
            entry = find_entry(entries, element, name)
            if entry is None:
                own = [item for other in entries if other.element == element for item in other.names]
                near = difflib.get_close_matches(name, own, n=3, cutoff=0.0)
                found = f'it has {", ".join(near)}' if near else 'it has none for this element'
                raise ValueError(
                    f'no {keyword} `{name}` for {element} in {", ".join(names)} of {folder}; {found}. Choose another '
                    f'in a KIND section `{{_: {element}, {keyword}: ...}}`, or another {keyword}_FILE_NAME.'
                )
            texts.append(entry.text)
    return ''.join(texts)
