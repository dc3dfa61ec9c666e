"""udrl improve: rounds in which the student learns from what it achieved itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udrl.cli.common import common_options, compute_options, emit, only_results_on_stdout, table
from udrl.cli.numbers import Real, Whole

if TYPE_CHECKING:
    from udrl.rounds.improve import ImproveReport

SHARE = Real(0, 1)
COUNT = Whole(min=1)


@click.command("improve", short_help="Let the student explore, and learn from what it achieved.")
@click.option("--rounds", metavar="N", type=COUNT, help="Rounds in all, finished ones counted in. Default: 3.")
@click.option(
    "--keep",
    metavar="N",
    type=Whole(min=0),
    help="Instead of making rounds: RUN/student becomes that of round N (0: as before the rounds). Nothing is deleted.",
)
@click.option(
    "--inputs",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Explore on these inputs (.jsonl, .json, .csv, .tsv, .txt, .parquet). Default: the run's training inputs.",
)
@click.option("--input-field", metavar="NAME", help="Column of the inputs. Default: text, input, prompt or caption.")
@click.option("--task", "tasks", metavar="NAME", multiple=True, help="Repeatable: explore these. Default: all.")
@click.option("--reward", metavar="NAME", default="relevance", show_default=True, help="The return that is raised.")
@click.option("--num-inputs", metavar="N", type=COUNT, default=200, show_default=True, help="Inputs a task and round.")
@click.option("--samples", metavar="N", type=COUNT, default=4, show_default=True, help="Completions an input.")
@click.option(
    "--best",
    metavar="X",
    type=Real(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of a task's episodes that commands are drawn from.",
)
@click.option(
    "--best-bin",
    metavar="X",
    type=SHARE,
    default=0.1,
    show_default=True,
    help="Share of the commands that ask for the highest bin, with all else open.",
)
@click.option(
    "--random",
    metavar="X",
    type=SHARE,
    default=0.2,
    show_default=True,
    help="Share of the commands that ask for anything: low returns stay known.",
)
@click.option(
    "--temperature",
    metavar="X",
    type=Real(min=0),
    default=0.8,
    show_default=True,
    help="Of exploration; everything else is sampled as the student ships.",
)
@click.option(
    "--per-input", metavar="N", type=COUNT, default=8, show_default=True, help="The pool's bound for a task and input."
)
@click.option(
    "--per-task", metavar="N", type=COUNT, default=4000, show_default=True, help="The pool's bound for a task."
)
@click.option(
    "--original",
    metavar="X",
    type=Real(0, 1, max_open=True),
    default=0.4,
    show_default=True,
    help="Share of the original episodes in what a round trains on, drawn anew each round.",
)
@click.option(
    "--diversity-floor",
    metavar="X",
    type=SHARE,
    default=0.95,
    show_default=True,
    help="End where diversity falls below this share of round 0's. 0: no rule guards diversity.",
)
@click.option(
    "--patience",
    metavar="N",
    type=COUNT,
    default=1,
    show_default=True,
    help="End after N rounds in a row that are no better on validation inputs.",
)
@click.option(
    "--epochs",
    metavar="X",
    type=Real(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Of each round's training.",
)
@click.option("--steps", metavar="N", type=COUNT, help="Optimiser steps of each round. Default: from --epochs.")
@click.option("--batch-size", metavar="N", type=COUNT, help="Episodes a step. Default: the preset's.")
@click.option(
    "--keep-bins", is_flag=True, help="Keep the bins of the return, instead of fitting them anew in each round."
)
@click.option(
    "--learning-rate",
    metavar="X",
    type=Real(min=0, min_open=True),
    help="Highest learning rate. Default: a tenth of the preset's.",
)
@click.option(
    "--validation-inputs",
    metavar="N",
    type=COUNT,
    default=40,
    show_default=True,
    help="Validation inputs a task that rounds are judged on.",
)
@click.option(
    "--sweep-inputs",
    metavar="N",
    type=COUNT,
    default=16,
    show_default=True,
    help="Those of them on which command following is measured.",
)
@click.option(
    "--calibration-inputs",
    metavar="N",
    type=COUNT,
    default=16,
    show_default=True,
    help="Validation inputs a task that calibration sweeps.",
)
@click.option("--encoder", metavar="NAME|PATH", help="Of relevance. Default: the run's.")
@compute_options
@click.option("--restart", is_flag=True, help="Forget an unfinished round instead of continuing it.")
@common_options()
def command(
    *,
    run: Path,
    rounds: int | None,
    keep: int | None,
    inputs: Path | None,
    input_field: str | None,
    tasks: tuple[str, ...],
    keep_bins: bool,
    device: str,
    precision: str,
    restart: bool,
    as_json: bool,
    **decided: Any,
) -> None:
    """Improve the run's student on inputs alone; no teacher is asked.

    In each round the student writes under commands drawn from the best episodes, and trains on with what it achieved.
    RUN/student is then the best round's; every round stays in RUN/rounds and can be returned to with --keep. An
    interrupted call is continued by the same command.
    """
    from udrl.rounds import improve
    from udrl.rounds.options import RoundOptions

    if keep is not None:
        _check_alone(click.get_current_context())
        report = improve.keep(run, keep)
    else:
        options = RoundOptions(refit=not keep_bins, **decided)
        with only_results_on_stdout():
            report = improve.improve(
                run,
                rounds=3 if rounds is None else rounds,
                options=options,
                inputs=inputs,
                input_field=input_field,
                tasks=tasks,
                device=device,
                precision=precision,
                restart=restart,
            )
    emit(report, as_json=as_json, text=describe(report))


def _check_alone(context: click.Context) -> None:
    """Raise UsageError where an option that makes rounds was given: --keep makes none."""
    for option in context.command.params:
        name = str(option.name)
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in ("keep", "run", "as_json", "debug", "config"):
            raise click.UsageError(f"--keep makes no rounds: leave {option.opts[-1]} out")


def describe(report: ImproveReport) -> str:
    """Return the table of the rounds, what was rejected, and which student the run has, for people."""
    from udrl.rounds.history import comparison

    lines = [table(comparison(report.rounds)), ""]
    for one in report.rounds:
        if one.rejected:
            told = ", ".join(f"{count:,} {rule}" for rule, count in one.rejected.items())
            lines.append(f"round {one.round} left out {sum(one.rejected.values()):,} of {one.explored:,}: {told}")
    if report.stopped:
        lines.append(f"stopped: {report.stopped}; udrl improve --keep N goes on from a round of your choice")
    lines.append(f"{report.student} is that of round {report.kept} (udrl improve --run {report.run} --keep N: another)")
    return "\n".join(lines)
