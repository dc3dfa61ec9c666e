"""The picture of the study of learning rate and batch size: a heat map a task and read, with lines of equal ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from udrl.study.lr_batch.figures import Best, Floats, Grid

RATIO_LINES = 5
"""Most lines of equal ratio in a heat map."""
LINE = "#b0413e"


@dataclass(frozen=True)
class Map:
    """One heat map. title, subtitle: above it; means: (cells,) in the grid's order, higher is better where ``rises``;
    best: its best cell; diverged: cells of which at least one seed diverged."""

    title: str
    subtitle: str
    means: Floats
    best: Best
    rises: bool = True
    diverged: tuple[int, ...] = ()


@dataclass(frozen=True)
class HeatMaps:
    """The maps in rows; grid: all rates with all batch sizes, the batch size running fastest."""

    rows: Sequence[Sequence[Map]]
    grid: Grid

    def __call__(self, figure: Any) -> None:
        """Draw on a matplotlib figure."""
        rates, batches = np.unique(self.grid.learning_rates), np.unique(self.grid.batch_sizes)
        height, width = 0.45 * len(rates) + 1.35, max(3.0, 0.62 * len(batches) + 1.3)  # room for the titles
        columns = max(map(len, self.rows))
        figure.set_size_inches(max(7.0, width * columns), height * len(self.rows) + 0.9)
        axes = figure.subplots(len(self.rows), columns, squeeze=False)
        for row, maps in zip(axes, self.rows, strict=True):
            for panel, one in zip(row, maps, strict=False):
                self._draw(panel, one, rates, batches)
            for panel in row[len(maps) :]:
                panel.set_axis_off()
        figure.supxlabel(
            "star: best cell; dot: not told apart from it; x: a seed diverged; dashed: equal ratio of learning rate to "
            "batch size",
            fontsize=8,
        )

    def _draw(self, axes: Any, one: Map, rates: Floats, batches: Floats) -> None:
        values = one.means.reshape(len(rates), len(batches))
        told = np.delete(one.means, one.diverged) if len(one.diverged) < len(one.means) else one.means
        low, high = float(told.min()), float(told.max())  # a loss that is off all scales would leave no colours
        axes.imshow(
            values, origin="lower", aspect="auto", cmap="viridis" if one.rises else "viridis_r", vmin=low, vmax=high
        )
        middle = (low + high) / 2
        for (row, column), value in np.ndenumerate(values):
            cell = row * len(batches) + column
            mark = "★" if cell == one.best.cell else "·" if cell in one.best.as_good else ""
            mark += "×" if cell in one.diverged else ""
            bright = (value > middle) == one.rises
            axes.text(
                column,
                row,
                f"{value:.2f}{mark}",
                ha="center",
                va="center",
                fontsize=8,
                color="black" if bright else "white",
                weight="bold" if cell == one.best.cell else "normal",
            )
        for ratio in self._ratios():
            x, y = equal_ratio(ratio, rates, batches)
            if len(x) > 1:
                axes.plot(x, y, "--", color=LINE, linewidth=0.8, alpha=0.8)
                beside = x[-1] > len(batches) - 0.6
                axes.annotate(
                    f"{ratio:.0e}",
                    (x[-1], y[-1]),
                    (2, 0) if beside else (3, -7),
                    textcoords="offset points",
                    fontsize=6,
                    color=LINE,
                    annotation_clip=False,
                    va="center",
                )
        axes.set_xlim(-0.5, len(batches) - 0.5)
        axes.set_ylim(-0.5, len(rates) - 0.5)
        axes.set_xticks(range(len(batches)), [f"{value:g}" for value in batches])
        axes.set_yticks(range(len(rates)), [f"{value:g}" for value in rates])
        axes.set_xlabel("batch size", fontsize=8)
        axes.set_ylabel("learning rate", fontsize=8)
        axes.set_title(f"{one.title}\n{one.subtitle}", fontsize=8, loc="left")

    def _ratios(self) -> list[float]:
        ratios = np.unique(np.round(np.log(self.grid.ratios), 6))[1:-1]
        if len(ratios) > RATIO_LINES:
            ratios = ratios[np.linspace(0, len(ratios) - 1, RATIO_LINES).round().astype(int)]
        return [float(value) for value in np.exp(ratios)]


def equal_ratio(ratio: float, rates: Floats, batches: Floats) -> tuple[Floats, Floats]:
    """Return where learning rate / batch size is ``ratio``, in places of the grid: (x, y), what lies inside of it."""
    edges = np.linspace(-0.5, len(batches) - 0.5, 200)
    x = _extended(edges, np.log(batches))
    logs = np.log(rates)
    steps = np.arange(len(rates), dtype=np.float64)
    wanted = x + np.log(ratio)
    low, high = _extended(np.array([-0.5, len(rates) - 0.5]), logs)
    inside = (wanted >= low - 1e-9) & (wanted <= high + 1e-9)
    padded = np.array([low, *logs, high])
    y = np.interp(wanted[inside], padded, np.array([-0.5, *steps, len(rates) - 0.5]))
    return edges[inside], y


def _extended(places: Floats, logs: Floats) -> Floats:
    """Return the logarithm at ``places`` between (and half a step outside of) those whose logarithms are known."""
    if len(logs) == 1:
        return np.full(len(places), logs[0]) + places
    known = np.array([logs[0] - (logs[1] - logs[0]) / 2, *logs, logs[-1] + (logs[-1] - logs[-2]) / 2])
    between: Floats = np.interp(places, np.array([-0.5, *range(len(logs)), len(logs) - 0.5]), known)
    return between
