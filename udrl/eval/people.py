"""A benchmark shown to people without names, and their votes put beside its figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from udrl.arguments import checked
from udrl.data.run import Run
from udrl.errors import RunError
from udrl.eval import votes
from udrl.eval.bench import BenchReport
from udrl.eval.benchmark_files import chosen_benchmark, read_benchmark
from udrl.eval.completions import read_blocks
from udrl.eval.measurement import judged_systems
from udrl.eval.pages.benchmark import report as write_report
from udrl.eval.pages.blind import blind_page
from udrl.eval.report_sentences import report_sentences
from udrl.eval.summary import write_summary


@dataclass(frozen=True)
class BlindReport:
    """Where the page is, and what it shows: so many pairs of so many systems."""

    page: Path
    pairs: int
    systems: int


@checked
def blind(run: Run | Path | str, *, name: str | None = None, seed: int = 0, limit: int | None = None) -> BlindReport:
    """Write ``blind.html`` beside the files of the benchmark ``name``: pairs of completions for a person to judge.

    Every two systems that are no baselines, of a student its fairest row, stand beside each other for every input,
    without names. name: None where the run has only one benchmark. seed: decides the order of the pairs and which
    completion stands first. limit: inputs a task at most. Raises RunError where there is no such benchmark, or nothing
    to compare in it.
    """
    run = run if isinstance(run, Run) else Run(run)
    folder = chosen_benchmark(run, name)
    blocks = list(read_blocks(folder).values())
    systems = judged_systems(blocks, "")
    pairs = votes.shown(votes.pairs_of(blocks, systems), seed=seed, limit=limit)
    if not pairs:
        raise RunError(
            f"{folder} has no two completions of different systems for one input ({len(systems)} systems that are no "
            "baselines): name a --reference or --recorded outputs to udrl bench first"
        )
    with run.writing():
        page = blind_page(folder / "blind.html", pairs, benchmark=folder.name, seed=seed)
    return BlindReport(page, len(pairs), len({name for pair in pairs for name in pair.systems}))


@checked
def count_votes(run: Run | Path | str, files: Sequence[Path | str], *, name: str | None = None) -> BenchReport:
    """Put the votes in ``files``, which blind pages exported, into summary and report of the benchmark ``name``.

    They replace the votes of an earlier call, and are kept: a benchmark that is scored again counts them anew. Raises
    InputError as `udrl.eval.votes.read_votes`, RunError where there is no such benchmark.
    """
    started = time.monotonic()
    run = run if isinstance(run, Run) else Run(run)
    folder = chosen_benchmark(run, name)
    pairs = votes.by_key(list(read_blocks(folder).values()))
    counted = votes.read_votes([Path(file) for file in files], pairs, benchmark=folder.name)
    summary, rows, about = read_benchmark(folder)
    relevance: dict[votes.Item, float] = {}
    for row in rows:
        if row["part"] == "comparison" and row["completion"]:
            value = row["relevance"]
            relevance.setdefault(
                (row["system"], row["task"], row["input_id"]), float("nan") if value is None else value
            )
    summary["votes"] = votes.figures(counted, pairs, relevance)
    with run.writing():
        votes.store(folder, counted)
        write_summary(folder, summary)
        page = write_report(folder)
    return BenchReport(
        folder=folder,
        report=page,
        summary=summary,
        sentences=tuple(report_sentences(summary)),
        notes=tuple(about["notes"]),
        written=0,
        reused=len(rows),
        seconds=round(time.monotonic() - started, 3),
    )
