"""``report.html``: one self-contained page from the files of a benchmark, readable by a newcomer.

It works offline, a content security policy lets no other script than its own run, it follows the reader's light or dark
setting, fits a phone and can be printed. The page is made from the files alone, so that ``udrl report`` can make it
again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udrl.data.run import Run
from udrl.errors import RunError, damaged
from udrl.eval.benchmark_files import Row, benchmark_folders, leading_of, read_benchmark, references_of
from udrl.eval.pages.benchmark_commands import commands_section
from udrl.eval.pages.benchmark_parity import parity_section, pictures_section
from udrl.eval.pages.benchmark_systems import how_section, judge_section, systems_section, tasks_section, votes_section
from udrl.eval.pages.environment import page_of
from udrl.eval.pages.example_browser import browser_of, examples_of
from udrl.eval.report_sentences import report_sentences
from udrl.files import atomic_write

FILE = "report.html"
NAV = {
    "systems": "Systems",
    "parity": "Parity",
    "pictures": "Quality and cost",
    "commands": "Commands",
    "judge": "Judge",
    "votes": "People",
    "tasks": "Tasks",
    "examples": "Examples",
    "how": "How it was measured",
}


def report(folder: Path) -> Path:
    """Write ``report.html`` beside the files of the benchmark in ``folder`` and return its path.

    Raises RunError where one of the files is missing, damaged or of another schema.
    """
    path = folder / FILE
    atomic_write(path, render(*read_benchmark(folder)))
    return path


def reports(run: Run | Path | str) -> list[Path]:
    """Write the reports of all benchmarks of the run again and return their paths; raises RunError as ``report``."""
    run = run if isinstance(run, Run) else Run(run)
    run.check()
    folders = benchmark_folders(run.path)
    if not folders:
        raise RunError(f"{run.path} holds no benchmark: run 'udrl bench --run {run.path}', or look at --episodes")
    pages = []
    for folder in folders:
        with damaged(RunError, f"the benchmark in {folder}", "run udrl bench again"):
            pages.append(report(folder))
    return pages


def render(figures: Mapping[str, Any], rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """Return the page.

    figures: summary.json; rows: as of ``read_benchmark``; about: title, description and notes of the benchmark.
    """
    references = references_of(figures)
    leading = leading_of(figures)
    reference = references[0] if references else None
    # What is looked at first stands first below each input.
    first = [name for name in (leading, reference) if name in figures["systems"]]
    sections = {
        "systems": systems_section(figures),
        "parity": parity_section(figures),
        "pictures": pictures_section(figures),
        "commands": commands_section(figures, rows),
        "judge": judge_section(figures),
        "votes": votes_section(figures),
        "tasks": tasks_section(figures),
        "examples": browser_of(
            examples_of(rows, reference=reference),
            {name: figures["systems"][name]["kind"] for name in (*first, *figures["systems"])},
            leading=leading,
            other=reference,
            note=f"Agreement is the similarity to {reference}'s completion." if reference else "",
        ),
        "how": how_section(figures, about),
    }
    return page_of(
        "benchmark.html",
        title=about["title"],
        description=about["description"],
        verdict=report_sentences(figures),
        nav={section: name for section, name in NAV.items() if sections[section]},
        **sections,
    )
