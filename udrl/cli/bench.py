"""udrl bench: the student beside its teacher, references and baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from udrl.cli.common import common_options, emit, engine_option, only_results_on_stdout

if TYPE_CHECKING:
    from udrl.eval.bench import BenchReport


@click.command("bench", short_help="Measure the student beside teachers and baselines; writes a report.")
@click.option(
    "--suite",
    metavar="NAME|FILE",
    help="What is measured: relevance (held-out inputs that ship), foreign (words never seen), heldout (the run's own "
    "test inputs), or a file. Default: relevance for a run of the built-in teacher, else heldout.",
)
@click.option("--name", metavar="NAME", help="Folder of the results, under RUN/bench. Default: the suite's name.")
@click.option(
    "--reference",
    metavar="NAME|FILE",
    multiple=True,
    help="Repeatable: teacher cards to compare with. The first is what student@matched is matched to.",
)
@click.option(
    "--recorded",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Repeatable: outputs that exist already (columns task, input, output, model); a row for each model.",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="Ask the OpenAI-compatible endpoint there for the references' models and the run's teacher.",
)
@click.option("--teacher", metavar="NAME|FILE", help="The run's teacher. Default: the one it was synthesised with.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Inputs a task at most, for a quick look.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@engine_option
@common_options()
def command(
    *,
    run: Path,
    seed: int,
    suite: str | None,
    name: str | None,
    reference: tuple[str, ...],
    recorded: tuple[Path, ...],
    base_url: str | None,
    teacher: str | None,
    limit: int | None,
    device: str,
    precision: str,
    engine: str,
    as_json: bool,
) -> None:
    """Measure on held-out inputs how close the student comes to its teacher, and whether it obeys commands.

    A teacher that cannot be asked now is shown by what it wrote for the run's test inputs, or left out; a note says so.

    Writes completions, scores, summary.json and a self-contained report.html. With --json, standard output is
    summary.json's contents.
    """
    from udrl.eval.bench import bench

    with only_results_on_stdout():
        report = bench(
            run,
            suite=suite,
            name=name,
            reference=reference,
            recorded=recorded,
            base_url=base_url,
            teacher=teacher,
            seed=seed,
            limit=limit,
            device=device,
            precision=precision,
            engine=engine,
        )
    emit(report.summary, as_json=as_json, text=describe(report))


def describe(report: BenchReport) -> str:
    """Return what a benchmark found, for people."""
    lines = []
    for verdict in report.verdicts:
        lines += [verdict.sentence, *(f"  but: {against}" for against in verdict.against)]
        for task in verdict.tasks:
            lines += [f"  {task.sentence}", *(f"    but: {against}" for against in task.against)]
    lines += [f"note: {note}" for note in report.notes]
    lines.append(f"report: {report.report}")
    return "\n".join(lines)
