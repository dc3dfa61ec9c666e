"""udrl train: from episodes to a student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udrl.cli.common import common_options, compute_options, emit, only_results_on_stdout
from udrl.cli.numbers import Real, Whole
from udrl.cli.train_method import method_from, method_options, of_training

if TYPE_CHECKING:
    from udrl.training.train import TrainReport


@click.command("train", short_help="Train a student on the run's episodes.")
@click.option(
    "--student",
    metavar="NAME|ID|PATH",
    help="gpt2 (124M), smollm2 (135M), gpt2-100m, gpt2-14m, gpt2-mini (4.4M), gpt2-2m, gpt2-1m, gpt2-700k, or any "
    "causal language model by hub id, folder or .gguf file. Default: gpt2.",
)
@click.option(
    "--from",
    "start_from",
    metavar="RUN|CHECKPOINT|NAME",
    type=click.Path(path_type=Path),
    help="Start from this trained student, or the one that ships under this name: add the run's tasks, rewards and "
    "episodes to what it knows. Where a starter ships, --student smollm2 starts from it unless this is none.",
)
@click.option(
    "--replay",
    metavar="X",
    type=Real(0, 1),
    default=0.25,
    show_default=True,
    help="With --from: share of that student's own episodes that are trained on again, against forgetting.",
)
@click.option("--selection", metavar="NAME", help="Train on this choice of udrl select. Default: on all episodes.")
@click.option(
    "--init",
    type=click.Choice(["auto", "pretrained", "random"]),
    default="auto",
    show_default=True,
    help="Where the weights come from; auto: pretrained where there are some.",
)
@click.option("--steps", metavar="N", type=Whole(min=1), help="Optimiser steps. Default: from --epochs.")
@click.option("--epochs", metavar="X", type=Real(min=0, min_open=True), help="Default: 3; 1 by dpo and grpo.")
@click.option("--batch-size", metavar="N", type=Whole(min=1), help="Episodes a step. Default: the preset's.")
@click.option(
    "--learning-rate",
    metavar="X",
    type=Real(min=0, min_open=True),
    help="Highest learning rate. Default: the preset's; with --from a tenth of it, from the a starter half.",
)
@click.option(
    "--row-learning-rate",
    metavar="X",
    type=Real(min=0, min_open=True),
    help="That of the rows of the command space. Default: 4e-3 beside pretrained weights, with --from a tenth of it, "
    "from the a starter half; else the learning rate.",
)
@click.option(
    "--vocab-size",
    metavar="N",
    type=Whole(257, 1_000_000),
    help="Of a student from scratch. Default: the preset's.",
)
@click.option(
    "--attribute",
    "attributes",
    metavar="NAME",
    multiple=True,
    help="Repeatable: rewards to be commanded in. Default: all that the episodes have. Length always is one.",
)
@click.option(
    "--commands",
    type=click.Choice(["ids", "text"]),
    default="ids",
    show_default=True,
    help="text: commands are words that other programs can write, and that inputs can forge.",
)
@click.option("--balance", is_flag=True, help="See every bin of an attribute equally often, where ties merged some.")
@click.option(
    "--curriculum",
    metavar="X",
    type=Real(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the steps that begin with high returns alone: helps small students from scratch to learn copying.",
)
@click.option(
    "--open-each",
    metavar="X",
    type=Real(0, 1),
    default=0.1,
    show_default=True,
    help="Command dropout: how often an attribute is left open in training.",
)
@click.option(
    "--open-all",
    metavar="X",
    type=Real(0, 1),
    default=0.1,
    show_default=True,
    help="How often the whole command is.",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "linear", "constant"]),
    help="How the learning rate falls to a tenth after the warmup. Default: cosine.",
)
@click.option("--warmup", metavar="X", type=Real(0, 1), help="Share of the steps. Default: 0.03.")
@click.option("--weight-decay", metavar="X", type=Real(min=0), default=0.05, show_default=True)
@click.option(
    "--clip",
    metavar="X",
    type=Real(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Longest gradient.",
)
@click.option(
    "--micro-batch",
    metavar="N",
    type=Whole(min=1),
    help="Episodes computed at once: less memory, the same student. Default: the whole batch.",
)
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory for a third more time.")
@click.option(
    "--validate-every",
    metavar="N",
    type=Whole(min=1),
    default=200,
    show_default=True,
    help="Steps between validations.",
)
@click.option(
    "--signs-inputs",
    metavar="N",
    type=Whole(min=0),
    default=4,
    show_default=True,
    help="Validation inputs a task on which obedience is watched, in at most 5 % of the time; 0: not at all.",
)
@click.option(
    "--keep",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="The weights of the last step, or of the lowest validation loss; dpo, grpo: of the highest reward there.",
)
@click.option(
    "--patience",
    metavar="N",
    type=Whole(min=0),
    default=0,
    help="End after N validations without a lower loss. Default: never.",
)
@click.option("--track", "tracker", type=click.Choice(["trackio", "wandb"]), help="Send the figures there too.")
@click.option("--encoder", metavar="NAME|PATH", help="Of the rewards that calibration measures. Default: the run's.")
@compute_options
@click.option(
    "--lora",
    metavar="RANK",
    type=Whole(min=0),
    default=0,
    help="Train changes of this rank instead of the pretrained matrices, merged in the end. Default: train all.",
)
@click.option(
    "--freeze",
    metavar="N",
    type=Whole(min=0),
    default=0,
    help="Keep the N lowest blocks of a trained student and its embeddings as they are. Default: train all.",
)
@click.option(
    "--shard",
    is_flag=True,
    help="Under torchrun: each process keeps only a part of the weights (FSDP2) instead of a copy.",
)
@click.option("--restart", is_flag=True, help="Forget an interrupted training instead of continuing it.")
@method_options
@common_options()
def command(*, method: str, run: Path, as_json: bool, **given: Any) -> None:
    """Train a student on the run's episodes and calibrate it on validation inputs.

    An interrupted training is continued by the same command. The student is an ordinary Hugging Face
    checkpoint in RUN/student; an earlier one stays until the new one is finished.
    """
    from udrl.data.run import Run
    from udrl.rewards import canary_lines
    from udrl.training.train import train

    if run.is_dir():
        for line in canary_lines(Run(run).facts().score):
            click.echo(line, err=True)
    with only_results_on_stdout():
        report = train(run, method=method_from(method, given), **of_training(given))
    emit(report, as_json=as_json, text=describe(report, run))


def describe(report: TrainReport, run: Path) -> str:
    """Return what a training did, for people."""
    figures = "" if report.validation_loss is None else f", validation loss {report.validation_loss:.3f}"
    if report.loss_gap is not None:
        figures += f" (+{report.loss_gap:.3f} with shuffled commands)"
    commanded = report.method == "udrl" or report.calibrated
    targets = "calibrated on validation inputs" if report.calibrated else "not calibrated: targets are taken as is"
    return "\n".join(
        [
            f"{report.student}: {report.parameters / 1e6:.1f}M parameters, {report.steps:,} steps over "
            f"{report.episodes:,} episodes in {report.seconds:,.0f} s "
            f"({report.tokens_per_second:,.0f} tokens/s){figures}",
            *([] if report.method == "udrl" else [by_method(report)]),
            *([] if report.stopped is None else [f"ended by {report.stopped}: the student is what was trained so far"]),
            cost_of(report),
            targets if commanded else "takes no commands",
            *(f"advice: {line}" for line in report.advice),
            f"student in {report.folder}",
            f"next: udrl generate --run {run}{' --target-relevance 0.6' * commanded}, or udrl bench --run {run}",
        ]
    )


def by_method(report: TrainReport) -> str:
    """Return what another method than upside-down RL did, for people."""
    line = f"by {report.method}, with {report.reward_calls:,} reward calls"
    if report.validation_calls:
        line += f" and {report.validation_calls:,} on validation inputs"
    if report.validation_reward is not None:
        line += f"; step {report.kept_step:,} is kept, validation reward {report.validation_reward:.3f}"
    return line


def cost_of(report: TrainReport) -> str:
    """Return what a training cost, for people."""
    gpus = f"{report.gpu_hours:.4f} GPU-hours" if report.gpu_hours else "no GPU"
    usd = "" if report.usd is None else f", {report.usd:.4f} USD"
    return f"cost: {report.machine_hours:.4f} machine-hours, {gpus}{usd}"
