"""``episodes.html``: one self-contained page to look at the episodes before a student is trained on them.

It works offline, holds no script, escapes every text, follows the reader's light or dark setting, fits a phone and can
be printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from udrl import __version__
from udrl.data.run import Run, atomic_write
from udrl.eval.pages import episodes_sections as sections
from udrl.eval.pages.episodes_checks import Check, checks
from udrl.eval.pages.episodes_survey import Look, look
from udrl.eval.pages.markup import finding, page

FILE = "episodes.html"
NAV = (
    ("counts", "Counts"),
    ("returns", "Returns"),
    ("lengths", "Lengths"),
    ("writers", "Who wrote"),
    ("examples", "Examples"),
    ("rejected", "Rejected"),
    ("hygiene", "Hygiene"),
)


@dataclass(frozen=True)
class EpisodesReport:
    """Where the page is, and what it counts. episodes: all; rejected: of them; checks: what speaks for and against."""

    page: Path
    episodes: int
    rejected: int
    tasks: tuple[str, ...]
    checks: tuple[Check, ...]


def episodes_report(run: Run | Path | str, *, output: Path | None = None) -> EpisodesReport:
    """Write the page about the run's episodes and return what it found. Nothing else is read or written.

    output: where the page goes (None: ``episodes.html`` in the run folder). Raises RunError where the run has no
    episodes, or the page cannot be written.
    """
    run = run if isinstance(run, Run) else Run(run)
    found = look(run)
    verdicts = checks(found)
    path = output or run.path / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, render(found, verdicts, name=run.path.absolute().name))
    meter = found.meter
    return EpisodesReport(path, meter.count(), meter.count(kept=False), tuple(meter.tasks), tuple(verdicts))


def render(found: Look, verdicts: list[Check], *, name: str) -> str:
    """Return the page."""
    meter = found.meter
    tasks = "1 task" if len(meter.tasks) == 1 else f"{len(meter.tasks)} tasks"
    body = [
        sections.counts_section(found),
        sections.returns_section(found),
        sections.lengths_section(found),
        sections.writers_section(found),
        sections.examples_section(found),
        sections.rejected_section(found),
        sections.hygiene_section(found),
    ]
    return page(
        title=f"Episodes of {name}",
        description=(
            f"{meter.count():,} episodes of {tasks}, {meter.count(kept=False):,} of them rejected: "
            "what there is to train on, before it is trained on."
        ),
        nav=NAV,
        verdict=(finding(check.passed, check.sentence, check.detail) for check in verdicts),
        body="\n".join(body),
        footer=f"Made by udrl {__version__} with udrl report --episodes. This page needs no network; the episodes "
        "beside it hold every figure and text.",
    )
