"""``report.html``: one self-contained page from the files of a benchmark, readable by a newcomer.

It works offline, escapes every text (and a content security policy lets no other script than its own run),
follows the reader's light or dark setting, fits a phone and can be printed. The page is made from the files alone, so
that ``udrl report`` can make it again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udrl import __version__
from udrl.data.run import Run, atomic_write
from udrl.errors import RunError
from udrl.eval.benchmark_files import Row, benchmark_folders, leading_of, read_benchmark, references_of
from udrl.eval.pages.benchmark_commands import commands_section
from udrl.eval.pages.benchmark_parity import parity_section, pictures_section
from udrl.eval.pages.benchmark_systems import (
    how_section,
    judge_section,
    systems_section,
    tasks_section,
)
from udrl.eval.pages.example_browser import examples_of, examples_section
from udrl.eval.pages.markup import finding, page, page_file
from udrl.eval.verdict import verdicts

FILE = "report.html"
NAV = (
    ("systems", "Systems"),
    ("parity", "Parity"),
    ("pictures", "Quality and cost"),
    ("commands", "Commands"),
    ("judge", "Judge"),
    ("tasks", "Tasks"),
    ("examples", "Examples"),
    ("how", "How it was measured"),
)


def report(folder: Path) -> Path:
    """Write ``report.html`` beside the files of the benchmark in ``folder`` and return its path.

    Raises RunError where one of the files is missing, damaged or of another schema.
    """
    found, rows, about = read_benchmark(folder)
    path = folder / FILE
    atomic_write(path, render(found, rows, about))
    return path


def reports(run: Run | Path | str) -> list[Path]:
    """Write the reports of all benchmarks of the run again and return their paths; raises RunError as ``report``."""
    run = run if isinstance(run, Run) else Run(run)
    run.check()
    folders = benchmark_folders(run.path)
    if not folders:
        raise RunError(f"{run.path} holds no benchmark: run 'udrl bench --run {run.path}', or look at --episodes")
    return [report(folder) for folder in folders]


def render(found: Mapping[str, Any], rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """Return the page.

    found: summary.json; rows: as of ``read_benchmark``; about: title, description and notes of the benchmark.
    """
    references = references_of(found)
    leading = leading_of(found)
    reference = references[0] if references else None
    # What is looked at first stands first below each input.
    first = [name for name in (leading, reference) if name in found["systems"]]
    systems = {name: found["systems"][name]["kind"] for name in (*first, *found["systems"])}
    examples, data = examples_section(
        examples_of(rows, reference=reference),
        systems,
        leading=leading,
        other=reference,
        note=f"Agreement is the similarity to {reference}'s completion." if reference else "",
    )
    body = [
        systems_section(found),
        parity_section(found),
        pictures_section(found),
        commands_section(found, rows),
        judge_section(found),
        tasks_section(found),
        examples,
        how_section(found, about),
    ]
    return page(
        title=str(about["title"]),
        description=str(about["description"]),
        nav=NAV,
        verdict=(
            finding(
                v.passed, v.sentence, v.detail, v.against, "What speaks against it:" if v.passed else "Keep in mind:"
            )
            for v in verdicts(found)
        ),
        body="\n".join(body),
        footer=f"Made by udrl {__version__}. This page needs no network; summary.json, completions.parquet and "
        "scores.parquet beside it hold every figure and text.",
        data=data,
        script=page_file("examples.js"),
    )
