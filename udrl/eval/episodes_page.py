"""``episodes.html``: one self-contained page to look at the episodes before a student is trained on them.

It works offline, holds no script, escapes every text, follows the reader's light or dark setting, fits a phone and can
be printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from udrl import __version__
from udrl.data.run import Run, atomic_write
from udrl.eval import episodes_sections as sections
from udrl.eval.episodes_checks import Check, checks
from udrl.eval.episodes_look import Look, look
from udrl.eval.markup import filled, page_file

FILE = "episodes.html"


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
    parts = {
        "style": page_file("page.css"),
        "title": escape(f"Episodes of {name}"),
        "description": (
            f"{meter.count():,} episodes of {tasks}, {meter.count(kept=False):,} of them rejected: "
            "what there is to train on, before it is trained on."
        ),
        "checks": "\n".join(map(_check, verdicts)),
        "counts": sections.counts_section(found),
        "returns": sections.returns_section(found),
        "lengths": sections.lengths_section(found),
        "writers": sections.writers_section(found),
        "examples": sections.examples_section(found),
        "rejected": sections.rejected_section(found),
        "hygiene": sections.hygiene_section(found),
        "version": escape(__version__),
    }
    return filled("episodes.html", parts)


def _check(check: Check) -> str:
    kind = {True: "yes", False: "no", None: "open"}[check.passed]
    detail = f'<p class="small">{escape(check.detail)}</p>' if check.detail else ""
    return f'<li class="{kind}"><strong>{escape(check.sentence)}</strong>{detail}</li>'
