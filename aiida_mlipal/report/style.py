"""How the figures look: one palette, and SVG that takes the text colour of the page around it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ('ACCENT', 'CLASS_COLOURS', 'GRADE_COLOURS', 'INK', 'SECOND', 'STYLE', 'to_svg')

#: Stands for the text colour of the page, light or dark; :func:`to_svg` replaces it by ``currentColor``.
INK: Final = '#010203'
ACCENT: Final = '#2f7ebc'
SECOND: Final = '#d9772b'
#: One colour per class of a selection (Okabe and Ito's palette, told apart by colour-blind readers).
CLASS_COLOURS: Final = {
    'selected': '#009e73',
    'stream': '#7b61c9',
    'candidate': '#e0a526',
    'accurate': '#8ec3e6',
    'agreed': '#56b4a9',
    'duplicate': '#b9b9b9',
    'known': '#8a8a8a',
    'failed': '#d55e00',
    'unphysical': '#9b2d1f',
}
#: One colour per extrapolation grade, from interpolation to beyond everything.
GRADE_COLOURS: Final = {'1': '#8ec3e6', '2': '#56b4a9', '3': '#e0a526', '4': '#d55e00', '5': '#7a1f3d'}
STYLE: Final = {
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    'savefig.facecolor': 'none',
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.linewidth': 0.8,
    'font.family': 'sans-serif',
    'font.size': 9.5,
    'axes.titlesize': 10,
    'axes.titleweight': 'bold',
    'legend.frameon': False,
    'legend.fontsize': 8.5,
    'lines.linewidth': 1.6,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'aiida-mlipal',  # equal data, equal bytes
}


def to_svg(figure: Figure, name: str) -> str:
    """Return ``figure`` as an SVG element for inlining: page colours, ids of its own, no fixed size."""
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None}, bbox_inches='tight', pad_inches=0.06)
    pyplot.close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg') :].replace(INK, 'currentColor')
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'url\(#([^)]+)\)', rf'url(#{name}-\1)', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r'font: ([^;"]*)\'DejaVu Sans\'[^;"]*', r'font: \1system-ui, sans-serif', svg)
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    # As wide as its column, but never so wide that its text outgrows that of the page.
    width = re.search(r'width="([\d.]+)pt"', svg)
    rem = 1.3 * float(width[1]) / 12 if width else 40
    svg = re.sub(r'\b(width|height)="[\d.]+pt" ?', '', svg, count=2)
    return svg.replace('<svg ', f'<svg role="img" style="max-width: {rem:.0f}rem" ', 1)
