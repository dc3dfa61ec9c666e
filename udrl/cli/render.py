"""udrl render: training rows with their commands attached."""

from __future__ import annotations

from pathlib import Path

import click

from udrl.cli.common import common_options, emit, only_results_on_stdout


@click.command("render", short_help="Write the training rows with their commands attached.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the rows go, as JSON lines. Default: RUN/rendered.jsonl.",
)
@click.option(
    "--split",
    "splits",
    type=click.Choice(["train", "validation", "test"]),
    multiple=True,
    default=("train",),
    show_default=True,
    help="Repeatable.",
)
@common_options(seed=False)
def command(*, run: Path, output: Path | None, splits: tuple[str, ...], as_json: bool) -> None:
    """Write the run's training rows with their command tokens attached, for those who train elsewhere.

    One JSON object a line: prompt and completion, as text and as token ids. The tokenizer and the command
    space are those of the run's student.
    """
    from udrl.training.render import render

    target = output or run / "rendered.jsonl"
    with only_results_on_stdout():
        rows = render(run, output=target, splits=splits)
    emit({"output": target, "rows": rows}, as_json=as_json, text=f"{rows:,} rows in {target}")
