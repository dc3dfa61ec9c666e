"""What the report's pictures are drawn on: SVG by matplotlib, with colours that the page decides (light and dark).

matplotlib knows only fixed colours, so each role is drawn in a colour that stands for it and the SVG then
gets the page's CSS variable in its place. Pictures are about as wide as a phone's screen; the page sets
them side by side where there is room. Text stays text, so that it can be searched, read aloud and takes the
page's font.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup, escape

ROLES = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "student": "#040404",
    "reference": "#050505",
    "baseline": "#060606",
    "zone": "#070707",
    "good": "#080808",
    "bad": "#090909",
}
"""Role -> the colour that stands for it while drawing; the page defines ``--ink``, ``--muted`` and so on."""

_ROLE_OF = {colour: role for role, colour in ROLES.items()}
_STAND_IN = re.compile(rf"(?<=[ :\"])(?:{'|'.join(_ROLE_OF)})(?=[;\"])")

WIDTH = 3.7
"""Inches; at 96 pixels an inch the width of a phone's column."""


@contextmanager
def canvas(height: float, salt: str, *, left: float, top: float) -> Iterator[tuple[Any, Any]]:
    """Yield a figure of ``height`` inches and its axes; left, top: margins in inches. ``salt`` makes its ids its own.

    Draw and call ``svg_of`` inside of the context: the page's style is set there.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,  # ids are the same at every run, and no two pictures of a page share one
        "text.parse_math": False,  # a task or system named "$x$" is no formula
        "font.size": 9,
        "axes.edgecolor": ROLES["muted"],
        "axes.labelcolor": ROLES["ink"],
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": ROLES["grid"],
        "grid.linewidth": 0.8,
        "text.color": ROLES["ink"],
        "xtick.color": ROLES["muted"],
        "ytick.color": ROLES["muted"],
        "xtick.labelcolor": ROLES["ink"],
        "ytick.labelcolor": ROLES["ink"],
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # matplotlib measures texts with a font of its own; the browser, which draws them, has others for other scripts.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        figure = Figure(figsize=(WIDTH, height))
        # Margins in inches; matplotlib's own layout would take most of a second a picture.
        figure.subplots_adjust(left / WIDTH, 0.48 / height, 1 - 0.1 / WIDTH, 1 - top / height)
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def svg_of(figure: Any, label: str) -> Markup:
    """Return the figure as a bare <svg> element with the page's colours and ``label`` as its accessible name.

    It is markup: matplotlib escapes the texts in it, and ``label`` is escaped here.
    """
    output = io.StringIO()
    figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = output.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # the same names in every picture: a page may have each id once
    # Names of a user's systems stand between the tags, and a colour's name in one of them stays a name.
    svg = re.sub(r"<[^>]*>", _themed, svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


def _themed(tag: re.Match[str]) -> str:
    return _STAND_IN.sub(lambda colour: f"var(--{_ROLE_OF[colour[0]]})", tag[0])
