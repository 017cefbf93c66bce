"""Write constraints.txt anew: the versions in the environment that runs this, those that the tests ran with."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet

#: Debian 12 has this one: a pin that it cannot take would break the set-up there.
OLDEST_PYTHON = '3.11.2'
#: What pip itself brings, and this project.
SKIPPED = {'pip', 'setuptools', 'wheel', 'aiida-mlipal'}


def main() -> None:
    """Write the file, or stop at the first pin that the oldest Python cannot take."""
    pins = {}
    for distribution in distributions():
        name, version = distribution.metadata['Name'], distribution.version
        if name.lower() in SKIPPED:
            continue
        needs = distribution.metadata.get('Requires-Python') or ''
        if not SpecifierSet(needs).contains(OLDEST_PYTHON):
            sys.exit(
                f'{name} {version} needs Python {needs}, but Debian 12 has {OLDEST_PYTHON}: install an older {name}.'
            )
        pins[name.lower()] = f'{name}=={version.partition("+")[0]}'  # "+cpu" is the build of one machine
    lines = ['# The versions that were tested. Written by `make constraints`.', *(pins[key] for key in sorted(pins))]
    Path('constraints.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    print(f'constraints.txt: {len(pins)} versions')


if __name__ == '__main__':
    main()
