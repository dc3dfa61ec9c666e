"""The report's pictures: SVG drawn by matplotlib, with colours that the page decides (light and dark).

matplotlib knows only fixed colours, so each role is drawn in a colour that stands for it and the SVG then
gets the page's CSS variable in its place. Pictures are about as wide as a phone's screen; the page sets
them side by side where there is room. Text stays text, so that it can be searched, read aloud and takes the
page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ROLES = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "student": "#040404",
    "reference": "#050505",
    "baseline": "#060606",
    "zone": "#070707",
    "good": "#080808",
}
"""Role -> the colour that stands for it while drawing; the page defines ``--ink``, ``--muted`` and so on."""

WIDTH = 3.7
"""Inches; at 96 pixels an inch the width of a phone's column."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, as one row of a forest plot; role: the colour (student, reference,
    baseline).
    """

    label: str
    value: float
    low: float
    high: float
    role: str = "student"


def curve_chart(
    curve: Sequence[Sequence[float]],
    *,
    name: str,
    unit: str,
    title: str,
    reachable: Sequence[float | None],
    compact: bool = False,
) -> str:
    """Draw commanded against achieved for one attribute: the diagonal is perfect obedience.

    curve: rows of (commanded, achieved, lo, hi); reachable: (lowest, highest) value the student can be
    brought to.
    """
    commanded, achieved, low, high = (list(values) for values in zip(*curve, strict=True))
    ends = [*commanded, *low, *high]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    limits = (min(ends) - margin, max(ends) + margin)
    with _figure(2.5 if compact else 3.1, f"curve {name} {title}", left=0.58, top=0.28) as (figure, axes, output):
        if None not in reachable:
            axes.axhspan(*reachable, color=ROLES["zone"], linewidth=0, zorder=0)
        axes.plot(limits, limits, linestyle=(0, (3, 3)), color=ROLES["muted"], linewidth=1)
        axes.fill_between(commanded, low, high, color=ROLES["student"], alpha=0.18, linewidth=0)
        axes.plot(commanded, achieved, color=ROLES["student"], linewidth=2, marker="o", markersize=4)
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        suffix = f" ({unit})" if unit else ""
        axes.set_xlabel(f"commanded {name}{suffix}")
        axes.set_ylabel(f"achieved {name}{suffix}")
        axes.set_title(title, loc="left", fontsize=9.5, color=ROLES["ink"])
        _finish(figure, output)
    return _page_colours(output.getvalue(), f"{title}: commanded against achieved {name}")


def forest_chart(rows: Sequence[Estimate], *, title: str, reference: str, bound: float) -> str:
    """Draw each system's ratio to ``reference`` with its interval; a line at 1, and the zone below
    ``bound``.
    """
    spread = [value for row in rows for value in (row.low, row.high, 1.0, bound)]
    margin = 0.06 * (max(spread) - min(spread) or 1.0)
    left, right = min(spread) - margin, max(spread) + margin
    with _figure(0.75 + 0.48 * len(rows), f"forest {title}", left=0.1, top=0.08) as (figure, axes, output):
        axes.axvspan(bound, right, color=ROLES["zone"], linewidth=0, zorder=0)
        axes.axvline(1.0, color=ROLES["muted"], linewidth=1)
        axes.axvline(bound, color=ROLES["muted"], linewidth=1, linestyle=(0, (3, 3)))
        for place, row in enumerate(rows):
            colour = ROLES[row.role]
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot([row.value], [place], color=colour, marker="s", markersize=5.5)
            # The name stands above its interval: beside it a phone has no room.
            axes.annotate(
                f"{row.label}   {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]", (left, place), (2, 7),
                textcoords="offset points", fontsize=8.5, color=ROLES["ink"], annotation_clip=False,
            )  # fmt: skip
        axes.set_xlim(left, right)
        axes.set_ylim(len(rows) - 0.6, -0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"relevance as a share of {reference}'s")
        _finish(figure, output)
    return _page_colours(output.getvalue(), title)


@dataclass(frozen=True)
class Bars:
    """One origin's share of a histogram: counts, one a bin; role: the colour."""

    label: str
    counts: Sequence[int]
    role: str


def histogram_chart(
    edges: Sequence[float],
    parts: Sequence[Bars],
    *,
    title: str,
    name: str,
    zone: tuple[float, float] | None = None,
) -> str:
    """Draw how many values fall into each bin, the parts on top of each other.

    edges: of the bins, one more than counts. name: of what is counted. zone: a range that is marked.
    """
    with _figure(2.3, f"histogram {name} {title}", left=0.52, top=0.28) as (figure, axes, output):
        if zone is not None:
            axes.axvspan(*zone, color=ROLES["zone"], linewidth=0, zorder=0)
        below = [0.0] * (len(edges) - 1)
        for part in parts:
            above = [low + count for low, count in zip(below, part.counts, strict=True)]
            axes.stairs(above, edges, baseline=below, fill=True, color=ROLES[part.role], linewidth=0)
            below = above
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, max(max(below), 1) * 1.08)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel(name)
        axes.set_ylabel("episodes")
        axes.yaxis.set_major_locator(_whole_numbers())
        axes.set_title(title, loc="left", fontsize=9.5, color=ROLES["ink"])
        _finish(figure, output)
    said = ", ".join(f"{part.label} {sum(part.counts)}" for part in parts)
    return _page_colours(output.getvalue(), f"{title}: episodes by {name} ({said})")


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, integer=True)


@contextmanager
def _figure(height: float, salt: str, *, left: float, top: float) -> Iterator[tuple[Any, Any, io.StringIO]]:
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
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height))
        # Margins in inches; matplotlib's own layout would take most of a second a picture.
        figure.subplots_adjust(left / WIDTH, 0.48 / height, 1 - 0.1 / WIDTH, 1 - top / height)
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot(), io.StringIO()


def _finish(figure: Any, output: io.StringIO) -> None:
    figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _page_colours(svg: str, label: str) -> str:
    """Return the bare <svg> element with the page's colours and an accessible name."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # the same names in every picture: a page may have each id once
    for role, colour in ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label, quote=True)}" ', 1)
