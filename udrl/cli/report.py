"""udrl report: pages to look at, from what a run holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from udrl.cli.common import common_options, emit

if TYPE_CHECKING:
    from udrl.eval.pages.episodes import EpisodesReport


@click.command("report", short_help="Write a page about the episodes, two runs, or the benchmarks' reports anew.")
@click.option("--episodes", is_flag=True, help="A page to look at the episodes before training.")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A page about the differences of two runs, or of two folders of benchmarks (RUN/bench/NAME).",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the page of --episodes or --compare goes. Default: RUN/episodes.html, B/compare-A.html.",
)
@common_options(seed=False)
def command(
    *, run: Path, episodes: bool, compare: tuple[Path, Path] | None, output: Path | None, as_json: bool
) -> None:
    """Write a page about the run's episodes, or about two runs; without either, the reports of its benchmarks again.

    The pages need no network and hold every figure and text that they show. The one about episodes says what there is
    to train on: counts, returns and lengths by task and origin, who wrote what, examples, what was rejected and why.
    The one about two runs pairs them by input: what differs, by how much, and whether chance could explain it.
    """
    if episodes and compare:
        raise click.UsageError("--episodes and --compare are two pages: give one of them")
    if episodes:
        from udrl.eval.pages.episodes import episodes_report

        page = episodes_report(run, output=output)
        emit(page, as_json=as_json, text=describe(page))
        return
    if compare:
        from udrl.eval.pages.comparison import compare_report

        comparison = compare_report(*compare, output=output)
        said = "\n".join([*(finding.sentence for finding in comparison.findings), f"page: {comparison.page}"])
        emit(comparison, as_json=as_json, text=said)
        return
    if output is not None:
        raise click.UsageError(
            "--output belongs to --episodes and --compare; a benchmark's report stands beside its files"
        )
    from udrl.eval.pages.benchmark import reports

    pages = reports(run)
    emit({"reports": pages}, as_json=as_json, text="\n".join(f"report: {path}" for path in pages))


def describe(report: EpisodesReport) -> str:
    """Return what the page says first, for people."""
    marks = {True: "  ", False: "! ", None: "  "}
    return "\n".join([*(marks[check.passed] + check.sentence for check in report.checks), f"page: {report.page}"])
