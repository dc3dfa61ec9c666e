"""``episodes.html``: one self-contained page to look at the episodes before a student is trained on them.

It works offline, holds no script, follows the reader's light or dark setting, fits a phone and can be printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from udrl.data.run import Run
from udrl.eval.pages.environment import write_page
from udrl.eval.pages.episodes_checks import Check, checks
from udrl.eval.pages.episodes_examples import examples_section, rejected_section
from udrl.eval.pages.episodes_survey import MAX_ROWS, MAX_TASKS, survey_of
from udrl.eval.pages.episodes_tables import (
    MEANINGS,
    ROLES,
    counts_table,
    hygiene,
    lengths_section,
    returns_sections,
    writers_table,
)

FILE = "episodes.html"
NAV = {
    "counts": "Counts",
    "returns": "Returns",
    "lengths": "Lengths",
    "writers": "Who wrote",
    "examples": "Examples",
    "rejected": "Rejected",
    "hygiene": "Hygiene",
}


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
    survey = survey_of(run)
    verdict = tuple(checks(survey))
    meter = survey.meter
    episodes, rejected = meter.count(), meter.count(kept=False)
    page = write_page(
        output or run.path / FILE,
        "episodes.html",
        name=run.path.absolute().name,
        nav=NAV,
        checks=verdict,
        episodes=f"{episodes:,}",
        rejections=f"{rejected:,}",
        tasks="1 task" if len(meter.tasks) == 1 else f"{len(meter.tasks)} tasks",
        origins=[(ROLES[origin], f"{origin}: {MEANINGS[origin]}") for origin in meter.origins],
        counts=counts_table(survey),
        scored=survey.by is not None,
        returns=returns_sections(survey),
        lengths=lengths_section(survey),
        writers=writers_table(survey),
        examples=examples_section(survey),
        rejected=rejected_section(survey),
        hygiene=hygiene(survey),
        most_tasks=MAX_TASKS,
        tasks_undrawn=max(0, len(meter.tasks) - MAX_TASKS),
        settings_unlisted=max(0, len(survey.settings) - MAX_ROWS),
    )
    return EpisodesReport(page, episodes, rejected, tuple(meter.tasks), verdict)
