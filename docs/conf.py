"""Sphinx configuration. `make docs` builds with every warning an error."""

from __future__ import annotations

import sys
from pathlib import Path

from aiida_mlipal import __version__

sys.path.insert(0, str(Path(__file__).parent / '_ext'))

project = 'aiida-mlipal'
author = 'The aiida-mlipal developers'
copyright = f'2026, {author}'
release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx_click',
    'sphinx_design',
    'tables',
]

exclude_patterns = ['_build']
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath', 'tasklist']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True

html_theme = 'sphinx_book_theme'
html_title = f'aiida-mlipal {release}'
html_theme_options = {'show_toc_level': 2, 'use_download_button': False, 'use_fullscreen_button': False}
html_copy_source = False
