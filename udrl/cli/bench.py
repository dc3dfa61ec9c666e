"""udrl bench: systems side by side, students, teachers, recorded outputs and baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udrl.cli.common import common_options, compute_options, emit, engine_option, only_results_on_stdout
from udrl.cli.numbers import Real, Whole

if TYPE_CHECKING:
    from udrl.eval.bench import BenchReport


@click.command("bench", short_help="Measure students beside teachers, recorded outputs and baselines.")
@click.option(
    "--suite",
    metavar="NAME|FILE",
    help="What is measured: relevance (held-out inputs that ship), foreign (words never seen), heldout (the run's own "
    "test inputs), recorded (those of the recorded files), or a file. Default: relevance for a run of the built-in "
    "teacher, recorded where there are recorded files and no student, else heldout.",
)
@click.option("--name", metavar="NAME", help="Folder of the results, under RUN/bench. Default: the suite's name.")
@click.option(
    "--student",
    "students",
    metavar="[NAME=]FOLDER",
    multiple=True,
    help="Repeatable: further students beside the run's own, each a run or a checkpoint of udrl train.",
)
@click.option(
    "--reference",
    metavar="NAME|FILE",
    multiple=True,
    help="Repeatable: what to compare with, models of the recorded files or teacher cards. The first is what "
    "student@matched is matched to.",
)
@click.option(
    "--recorded",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Repeatable: outputs that exist already (columns input, output, model, task; also AlpacaEval's "
    "model_outputs.json); a row for each model. Needs no run and no student.",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="Ask the OpenAI-compatible endpoint there for the references' models, the judge's and the run's teacher.",
)
@click.option("--teacher", metavar="NAME|FILE", help="The run's teacher. Default: the one it was synthesised with.")
@click.option(
    "--judge",
    metavar="NAME|FILE",
    help="Card of an LLM that is shown pairs of completions, twice with places swapped; its judgements are kept.",
)
@click.option(
    "--reward", "rewards", metavar="R", multiple=True, help="Repeatable: further figures of every completion."
)
@click.option("--encoder", metavar="NAME|FOLDER", help="Instead of the suite's.")
@click.option("--second-encoder", metavar="NAME|FOLDER|lsa", help="Instead of the suite's.")
@click.option("--rescore", is_flag=True, help="Score what is stored again, with other encoders; nothing is generated.")
@click.option(
    "--fail-under",
    "floors",
    metavar="FIGURE=VALUE",
    multiple=True,
    help="Repeatable: exit 1 where a figure of summary.json is below VALUE, as parity.llama3=0.95 (see the page on the "
    "benchmark).",
)
@click.option(
    "--fail-over", "ceilings", metavar="FIGURE=VALUE", multiple=True, help="The same for figures above VALUE."
)
@click.option(
    "--machine-usd",
    metavar="USD",
    type=Real(min=0),
    help="What an hour of this machine costs: the table then says what 1,000 calls of a student do.",
)
@click.option("--limit", metavar="N", type=Whole(min=1), help="Inputs a task at most, for a quick look.")
@compute_options
@engine_option
@common_options()
def command(
    *, run: Path, rescore: bool, floors: tuple[str, ...], ceilings: tuple[str, ...], as_json: bool, **given: Any
) -> None:
    """Measure on held-out inputs how close students come to teachers, and whether they obey commands.

    With --recorded alone, outputs that exist already are compared: no run, no student, nobody is asked. A teacher that
    cannot be asked now is shown by what it wrote for the run's test inputs, or left out; a note says so.

    Writes completions, scores, summary.json and a self-contained report.html. With --json, standard output is
    summary.json's contents.
    """
    from udrl.eval import bench as benchmark
    from udrl.eval.thresholds import missed, parse

    limits = [*(parse(text, above=False) for text in floors), *(parse(text, above=True) for text in ceilings)]
    with only_results_on_stdout():
        report = benchmark.rescore(run, **_of_rescoring(given)) if rescore else benchmark.bench(run, **given)
        failed = missed(report.summary, limits)
    emit(report.summary, as_json=as_json, text=describe(report, failed))
    if failed:
        for sentence in failed:
            click.echo(f"error: {sentence}", err=True)
        click.get_current_context().exit(1)


def _of_rescoring(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scoring again takes of the options; raises UsageError for those that ask somebody."""
    from udrl.errors import UsageError

    for name in ("suite", "students", "reference", "recorded", "judge"):
        if given[name]:
            option = f"--{name.removesuffix('s')}"
            raise UsageError(f"--rescore scores what is stored and asks nobody: leave {option} out")
    return {name: given[name] for name in ("name", "encoder", "second_encoder", "rewards")}


def describe(report: BenchReport, failed: list[str]) -> str:
    """Return what a benchmark found, for people."""
    lines = []
    for one in report.sentences:
        lines += [one.sentence, *(f"  but: {against}" for against in one.against)]
        for task in one.tasks:
            lines += [f"  {task.sentence}", *(f"    but: {against}" for against in task.against)]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"failed: {sentence}" for sentence in failed]
    lines.append(f"report: {report.report}")
    return "\n".join(lines)
