"""The report's pictures: curves, forest plots, scatter plots and histograms, drawn as ``drawing`` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from udrl.eval.pages.point_labels import place_labels
from udrl.eval.pages.svg import ROLES, canvas, svg_of

MAX_LABEL = 30
"""Characters of a name in a picture; the tables have all of it."""


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


@dataclass(frozen=True)
class Point:
    """A system in a scatter plot; low and high: its interval in y. label: what stands beside it, name: who it is."""

    label: str
    name: str
    x: float
    y: float
    low: float
    high: float
    role: str


@dataclass(frozen=True)
class Bars:
    """One origin's share of a histogram: counts, one a bin; role: the colour."""

    label: str
    counts: Sequence[int]
    role: str


def curve_chart(
    curve: Sequence[Sequence[float]],
    *,
    name: str,
    unit: str,
    title: str,
    reachable: Sequence[float | None],
    before: Sequence[Sequence[float]] = (),
    compact: bool = False,
) -> Markup:
    """Draw commanded against achieved for one attribute: the diagonal is perfect obedience.

    curve: rows of (commanded, achieved, lo, hi); reachable: (lowest, highest) value the student can be brought to;
    before: the same curve without calibration, where there is one, dashed.
    """
    commanded, achieved, low, high = (list(values) for values in zip(*curve, strict=True))
    ends = [*commanded, *low, *high, *(value for row in before for value in row)]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    limits = (min(ends) - margin, max(ends) + margin)
    with canvas(2.5 if compact else 3.1, f"curve {name} {title}", left=0.58, top=0.28) as (figure, axes):
        if None not in reachable:
            axes.axhspan(*reachable, color=ROLES["zone"], linewidth=0, zorder=0)
        axes.plot(limits, limits, linestyle=(0, (3, 3)), color=ROLES["muted"], linewidth=1)
        if before:
            asked, came, least, most = zip(*before, strict=True)
            axes.fill_between(asked, least, most, color=ROLES["reference"], alpha=0.15, linewidth=0)
            axes.plot(asked, came, color=ROLES["reference"], linewidth=1.5, marker="s", markersize=3, linestyle="--")
        axes.fill_between(commanded, low, high, color=ROLES["student"], alpha=0.18, linewidth=0)
        axes.plot(commanded, achieved, color=ROLES["student"], linewidth=2, marker="o", markersize=4)
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        suffix = f" ({unit})" if unit else ""
        axes.set_xlabel(f"commanded {name}{suffix}")
        axes.set_ylabel(f"achieved {name}{suffix}")
        axes.set_title(_short(title), loc="left", fontsize=9.5, color=ROLES["ink"])
        return svg_of(figure, f"{title}: commanded against achieved {name}")


def forest_chart(
    rows: Sequence[Estimate],
    *,
    title: str,
    axis: str,
    line: float,
    zone: tuple[float | None, float | None] = (None, None),
    bound: float | None = None,
    digits: int = 2,
) -> Markup:
    """Draw each row's figure with its interval beside a line at ``line``.

    axis: what the figure is; bound: a dashed line; zone: a coloured range, None: to the end of the picture. The
    picture shows where all rows but baselines lie; a baseline beyond its edge is an arrow there.
    """
    told = [row for row in rows if row.role != "baseline"] or rows
    spread = [value for row in told for value in (row.low, row.high)] + [line]
    spread += [value for value in (bound,) if value is not None]
    margin = 0.08 * (max(spread) - min(spread) or 1.0)
    left, right = min(spread) - margin, max(spread) + margin
    with canvas(0.75 + 0.48 * len(rows), f"forest {title}", left=0.1, top=0.08) as (figure, axes):
        if zone != (None, None):
            low, high = zone
            axes.axvspan(
                left if low is None else low, right if high is None else high, color=ROLES["zone"], lw=0, zorder=0
            )
        axes.axvline(line, color=ROLES["muted"], linewidth=1)
        if bound is not None:
            axes.axvline(bound, color=ROLES["muted"], linewidth=1, linestyle=(0, (3, 3)))
        for y, row in enumerate(rows):
            colour = ROLES[row.role]
            if row.value < left or row.value > right:
                beyond = (right, ">") if row.value > right else (left, "<")
                axes.plot([beyond[0]], [y], color=colour, marker=beyond[1], markersize=6, clip_on=False)
            else:
                axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
                axes.plot([row.value], [y], color=colour, marker="s", markersize=5.5)
            # The name stands above its interval: beside it a phone has no room.
            said = f"{_short(row.label)}   {row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"
            axes.annotate(
                said, (left, y), (2, 7),
                textcoords="offset points", fontsize=8.5, color=ROLES["ink"], annotation_clip=False,
            )  # fmt: skip
        axes.set_xlim(left, right)
        axes.set_ylim(len(rows) - 0.6, -0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(axis)
        return svg_of(figure, title)


def scatter_chart(
    points: Sequence[Point], *, title: str, x: str, y: str, log: bool = False, frontier: bool = False
) -> Markup:
    """Draw systems by two figures, ``x`` and ``y``, with their intervals in y.

    log: x is drawn on a logarithmic scale. frontier: a line through the points for which no other has both a smaller x
    and a larger y (the Pareto frontier).
    """
    with canvas(3.1, f"scatter {title}", left=0.58, top=0.28) as (figure, axes):
        if log:
            axes.set_xscale("log")
        for point in points:
            colour = ROLES[point.role]
            axes.plot([point.x, point.x], [point.low, point.high], color=colour, linewidth=1.2, alpha=0.7)
            axes.plot([point.x], [point.y], color=colour, marker="o", markersize=5.5)
        axes.margins(x=0.14, y=0.12)
        if log:
            _widen(axes)
        steps: list[tuple[float, float]] = []
        if frontier:
            steps = pareto([(point.x, point.y) for point in points])
            limits = axes.get_xlim()
            axes.set_xlim(limits)
            steps.append((limits[1], steps[-1][1]))
            axes.step(*zip(*steps, strict=True), where="post", color=ROLES["muted"], lw=1, ls=":", zorder=1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(_short(title), loc="left", fontsize=9.5, color=ROLES["ink"])
        if log:
            _plain_ticks(axes)
        labels = [(point.x, point.y, _short(point.label)) for point in points]
        place_labels(figure, axes, labels, ROLES["ink"], steps=steps)
        return svg_of(figure, f"{title}: {y} by {x}, {len(points)} systems")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (x, y) for which no other has an x as small and a larger y, by x."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def histogram_chart(edges: Sequence[float], parts: Sequence[Bars], *, title: str, name: str) -> Markup:
    """Draw how many values fall into each bin, the parts on top of each other.

    edges: of the bins, one more than counts. name: of what is counted.
    """
    from matplotlib.ticker import MaxNLocator

    with canvas(2.3, f"histogram {name} {title}", left=0.52, top=0.28) as (figure, axes):
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
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_title(_short(title), loc="left", fontsize=9.5, color=ROLES["ink"])
        said = ", ".join(f"{part.label} {sum(part.counts)}" for part in parts)
        return svg_of(figure, f"{title}: episodes by {name} ({said})")


def _widen(axes: Any) -> None:
    """At least a decade: a narrower logarithmic axis would have no tick that says where it is."""
    low, high = axes.get_xlim()
    if high / low < 10:
        middle = (low * high) ** 0.5
        axes.set_xlim(middle / 10**0.5, middle * 10**0.5)


def _plain_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if axes.get_xlim()[1] / axes.get_xlim()[0] > 300 else (1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(text: str) -> str:
    # A line break or a very long name would push the picture apart.
    text = " ".join(text.split())
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"
