"""Where the names of points stand in a scatter plot: beside their point, as far as there is room off each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

SIZE = 8.0
"""Points, of the letters."""

_LETTER, _LINE = 0.56, 1.15
"""Mean width and height of a letter as shares of its size, a little more than most fonts need."""

_RADIUS = 4.0
_AROUND = (
    (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8)
)  # fmt: skip
_DISTANCES = (7.0, 16.0, 26.0)

Box = tuple[float, float, float, float]
"""left, bottom, right, top in points."""


def place_labels(
    figure: Any,
    axes: Any,
    labels: Sequence[tuple[float, float, str]],
    colour: str,
    *,
    steps: Sequence[tuple[float, float]] = (),
) -> None:
    """Write each (x, y, text) beside its point where it covers least of other points, labels and ``steps``.

    steps: corners of a line that runs level from each to the next one's x. A label that had to go further away gets a
    thin line to its point. Limits and scales of ``axes`` must be final.
    """
    axes.get_xlim(), axes.get_ylim()  # limits that follow from what was drawn are computed only when asked for
    scale = 72 / figure.dpi
    extent = axes.get_window_extent()
    frame = (extent.x0 * scale, extent.y0 * scale, extent.x1 * scale, extent.y1 * scale)
    places = [tuple(value * scale for value in axes.transData.transform((x, y))) for x, y, _ in labels]
    taken: list[Box] = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in places]
    turns = [tuple(value * scale for value in axes.transData.transform(step)) for step in steps]
    taken += [(x - _RADIUS, y - _RADIUS, end, y + _RADIUS) for (x, y), (end, _) in itertools.pairwise(turns)]
    for (x, y, text), (px, py) in zip(labels, places, strict=True):
        best = min(_candidates(px, py, text), key=lambda c: (_cost(c[1], taken, frame), c[0]))
        far, box = best
        taken.append(box)
        centre = ((box[0] + box[2]) / 2 - px, (box[1] + box[3]) / 2 - py)
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            text, (x, y), centre, textcoords="offset points", ha="center", va="center", fontsize=SIZE, color=colour,
            arrowprops=line if far > _DISTANCES[0] else None, annotation_clip=False,
        )  # fmt: skip


def _candidates(x: float, y: float, text: str) -> list[tuple[float, Box]]:
    width, height = _LETTER * SIZE * max(1, len(text)), _LINE * SIZE
    candidates = []
    for distance in _DISTANCES:
        for dx, dy in _AROUND:
            # From the point's edge to the nearest edge of the text.
            cx = x + dx * distance + (width / 2 if dx > 0 else -width / 2 if dx < 0 else 0.0)
            cy = y + dy * (distance + height / 2 if not dx else distance)
            candidates.append((distance, (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)))
    return candidates


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    covered = sum(_overlap(box, other) for other in taken)
    inside = _overlap(box, frame)
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return covered + 3.0 * outside


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
