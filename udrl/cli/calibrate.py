"""udrl calibrate: measures again which command achieves what."""

from __future__ import annotations

from pathlib import Path

import click

from udrl.cli.common import common_options, compute_options, emit, engine_option, only_results_on_stdout
from udrl.cli.numbers import Real, Whole


@click.command("calibrate", short_help="Measure again which command achieves what, without training.")
@click.option(
    "--inputs", metavar="N", type=Whole(min=1), default=16, show_default=True, help="Validation inputs a task."
)
@click.option("--temperature", metavar="X", type=Real(min=0), help="0 is greedy. Default: the student's.")
@click.option("--top-p", metavar="X", type=Real(0, 1, min_open=True), help="Default: the student's.")
@click.option("--no-repeat", metavar="N", type=Whole(min=0), help="No N tokens twice. Default: the student's.")
@click.option("--guidance", metavar="W", type=Real(min=0), help="See udrl generate. Default: the student's.")
@click.option("--encoder", metavar="NAME|PATH", help="Of relevance. Default: the run's.")
@compute_options
@engine_option
@common_options()
def command(
    *,
    run: Path,
    seed: int,
    inputs: int,
    temperature: float | None,
    top_p: float | None,
    no_repeat: int | None,
    guidance: float | None,
    encoder: str | None,
    device: str,
    precision: str,
    engine: str,
    as_json: bool,
) -> None:
    """Sweep commands over validation inputs and store with the student what they achieve.

    Training does this at its end. The sampling that is given here becomes what the student ships with: a stronger
    --guidance reaches further and obeys better, at twice the work.
    """
    from udrl.training.calibrate import recalibrate

    with only_results_on_stdout():
        report = recalibrate(
            run,
            inputs=inputs,
            temperature=temperature,
            top_p=top_p,
            no_repeat=no_repeat,
            guidance=guidance,
            encoder=encoder,
            seed=seed,
            device=device,
            precision=precision,
            engine=engine,
        )
    lines = [
        f"{task}: " + ", ".join(f"{name} {low:.2f} to {high:.2f}" for name, (low, high) in reached.items())
        for task, reached in report.reachable.items()
    ]
    emit(report, as_json=as_json, text="\n".join(["what commands reach:", *lines]))
