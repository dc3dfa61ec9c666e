"""udrl prefer: a reward model from preference pairs."""

from __future__ import annotations

from pathlib import Path

import click

from udrl.cli.common import common_options, emit, only_results_on_stdout
from udrl.cli.numbers import Real, Whole


@click.command("prefer", short_help="Train a reward model on pairs of the run's completions.")
@click.option(
    "--from",
    "start_from",
    metavar="RUN|CHECKPOINT",
    type=click.Path(path_type=Path),
    required=True,
    help="Start from the weights of this trained student.",
)
@click.option(
    "--by", metavar="NAME", default="relevance", show_default=True, help="The return that says what is better."
)
@click.option(
    "--gap",
    metavar="X",
    type=Real(min=0),
    default=0.25,
    show_default=True,
    help="Least difference of a pair's returns, as a share of its task's range.",
)
@click.option("--epochs", metavar="X", type=Real(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--steps", metavar="N", type=Whole(min=1), help="Optimiser steps. Default: from --epochs.")
@click.option("--batch-size", metavar="N", type=Whole(min=1), default=16, show_default=True, help="Pairs a step.")
@click.option(
    "--learning-rate",
    metavar="X",
    type=Real(min=0, min_open=True),
    help="Default: half of what the student would be trained on with.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@common_options()
def command(
    *,
    run: Path,
    seed: int,
    start_from: Path,
    by: str,
    gap: float,
    epochs: float,
    steps: int | None,
    batch_size: int,
    learning_rate: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Train a reward model to tell which of two completions is better, for use as the reward preference:RUN/preference.

    The pairs are those of udrl train --method dpo. TRL trains it (pip install 'udrl[study]').
    """
    from udrl.training.reward_model import prefer

    with only_results_on_stdout():
        report = prefer(
            run,
            start_from=start_from,
            by=by,
            gap=gap,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            device=device,
            seed=seed,
        )
    right = "no validation pairs to check it on"
    if report.accuracy is not None:
        mean, low, high = report.accuracy
        right = f"{mean:.0%} [{low:.0%}, {high:.0%}] of {report.validation_pairs:,} validation pairs in the right order"
    lines = [
        f"{report.pairs:,} pairs, {report.steps:,} steps in {report.seconds:,.0f} s: {right}",
        f"next: udrl score --run {run} --reward {report.source} --reward {by}, or udrl train --method grpo "
        f"--method-reward {report.source}",
    ]
    emit(report, as_json=as_json, text="\n".join(lines))
