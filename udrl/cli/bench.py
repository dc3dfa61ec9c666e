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
    "--blind",
    is_flag=True,
    help="Write a page that shows a person two stored completions without names, to judge them.",
)
@click.option(
    "--votes",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Repeatable, one a person: votes that such a page saved; they go into summary and report.",
)
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
    *,
    run: Path,
    rescore: bool,
    blind: bool,
    votes: tuple[Path, ...],
    floors: tuple[str, ...],
    ceilings: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Measure on held-out inputs how close students come to teachers, and whether they obey commands.

    With --recorded alone, outputs that exist already are compared: no run, no student, nobody is asked. A teacher that
    cannot be asked now is shown by what it wrote for the run's test inputs, or left out; a note says so.

    Writes completions, scores, summary.json and a self-contained report.html. With --json, standard output is
    summary.json's contents.
    """
    from udrl.eval import bench as benchmark
    from udrl.eval.people import count_votes
    from udrl.eval.thresholds import missed, parse

    if blind + bool(votes) + rescore > 1:
        raise click.UsageError("--blind, --votes and --rescore are three different calls: leave all but one out")
    if blind:
        _write_blind_page(run, given, as_json=as_json)
        return
    limits = [*(parse(text, above=False) for text in floors), *(parse(text, above=True) for text in ceilings)]
    with only_results_on_stdout():
        if votes:
            report = count_votes(run, votes, **_of_stored(given, "--votes", ("name",)))
        elif rescore:
            report = benchmark.rescore(run, **_of_rescoring(given))
        else:
            report = benchmark.bench(run, **given)
        failed = missed(report.summary, limits)
    emit(report.summary, as_json=as_json, text=describe(report, failed))
    if failed:
        for sentence in failed:
            click.echo(f"error: {sentence}", err=True)
        click.get_current_context().exit(1)


def _write_blind_page(run: Path, given: Mapping[str, Any], *, as_json: bool) -> None:
    from udrl.eval.people import blind

    with only_results_on_stdout():
        report = blind(run, **_of_stored(given, "--blind", ("name", "seed", "limit")))
    text = (
        f"{report.pairs:,} pairs of {report.systems} systems: {report.page}\n"
        "open it in a browser, judge, save; then udrl bench --votes FILE"
    )
    emit(report, as_json=as_json, text=text)


def _of_rescoring(given: Mapping[str, Any]) -> dict[str, Any]:
    return _of_stored(given, "--rescore", ("name", "encoder", "second_encoder", "rewards"))


def _of_stored(given: Mapping[str, Any], call: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what a ``call`` on a stored benchmark takes of the options; raises UsageError for those that ask somebody,
    or that it has no use for."""
    from udrl.errors import UsageError

    for name in ("suite", "students", "reference", "recorded", "judge", "rewards", "encoder", "second_encoder"):
        if given[name] and name not in names:
            option = f"--{name.removesuffix('s').replace('_', '-')}"
            raise UsageError(f"{call} takes what is stored and asks nobody: leave {option} out")
    return {name: given[name] for name in names}


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
