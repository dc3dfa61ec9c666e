"""What a study leaves in RUN/study/NAME: table.md, picture.png and study.json, beside the cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl import __version__, hardware
from udrl.data.run import Run
from udrl.data.tasks import NAME
from udrl.errors import UsageError
from udrl.files import atomic_write

SCHEMA = 1
TABLE, PICTURE, DATA = "table.md", "picture.png", "study.json"
INK, MUTED, STUDENT = "#1a1a1a", "#8a8a8a", "#2b6cb0"


@dataclass(frozen=True)
class StudyReport:
    """Where a study's results stand. rows: the table, header first; notes: what must be said of it."""

    folder: Path
    table: Path
    picture: Path
    data: Path
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study in a run, written by one process at a time."""

    run: Path
    name: str

    @property
    def folder(self) -> Path:
        """RUN/study/NAME."""
        return self.run / "study" / self.name

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Hold the study's folder, and yield it. Other stages of the run may go on meanwhile."""
        with Run(self.folder).writing():
            yield self.folder


def study_folder(run: Path, name: str) -> StudyFolder:
    """Return the place of the study ``name``; raises UsageError for a name that is no folder, RunError for no run."""
    if not NAME.fullmatch(name):
        raise UsageError(f"the name of a study must be small letters, digits and single hyphens, found {name!r}")
    Run(run).check()
    return StudyFolder(run, name)


@dataclass(frozen=True)
class Bars:
    """A picture of figures with their intervals, one below the other."""

    axis: str
    rows: Sequence[tuple[str, tuple[float, float, float]]]

    def __call__(self, figure: Any) -> None:
        """Draw on a matplotlib figure."""
        figure.set_size_inches(7.5, 0.8 + 0.28 * len(self.rows))
        axes = figure.add_subplot()
        for row, (_, (mean, low, high)) in enumerate(self.rows):
            axes.plot([low, high], [row, row], color=MUTED, linewidth=3, solid_capstyle="round", zorder=1)
            axes.plot([mean], [row], "o", color=STUDENT, zorder=2)
        axes.set_yticks(range(len(self.rows)), [label for label, _ in self.rows])
        axes.invert_yaxis()
        axes.set_xlabel(self.axis)
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)


def publish(
    study: StudyFolder,
    folder: Path,
    *,
    title: str,
    settings: Mapping[str, Any],
    cells: Mapping[str, Any],
    table: Sequence[Sequence[str]],
    bars: Callable[[Any], None],
    notes: Sequence[str] = (),
    findings: Mapping[str, Any] | None = None,
) -> StudyReport:
    """Write the table, the picture and the JSON, and return where they are.

    table: header first. bars: draws the picture on a matplotlib figure. findings: what follows from the cells, for
    programs. Cells come as they are, without the values of single inputs (``items``), which their result.json has.
    """

    means = {name: {key: value for key, value in cell.items() if key != "items"} for name, cell in cells.items()}
    machine = hardware.describe_in_line()
    data = {"schema": SCHEMA, "udrl": __version__, "study": study.name, "title": title, "hardware": machine,
            "settings": settings, "findings": findings or {}, "notes": list(notes), "cells": means}  # fmt: skip
    text = [f"# {title}", "", _markdown(table), "", *(f"- {line}" for line in notes)]
    atomic_write(folder / TABLE, "\n".join(text).rstrip() + "\n")
    draw(folder / PICTURE, bars, title=title)
    atomic_write(folder / DATA, json.dumps(data, indent=1, allow_nan=False))
    rows = tuple(tuple(row) for row in table)
    return StudyReport(folder, folder / TABLE, folder / PICTURE, folder / DATA, rows, tuple(notes))


def draw(path: Path, paint: Callable[[Any], None], *, title: str) -> None:
    """Write the PNG that ``paint`` draws on a matplotlib figure."""
    import io

    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
                                "text.parse_math": False, "text.color": INK}):  # fmt: skip
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=11)
        paint(figure)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150, facecolor="white")
    atomic_write(path, content.getvalue())


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
