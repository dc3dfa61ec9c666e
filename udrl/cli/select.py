"""udrl select: keeps the training episodes that matter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from udrl.cli.common import common_options, compute_options, emit, only_results_on_stdout, table
from udrl.cli.numbers import Real, Whole

if TYPE_CHECKING:
    from udrl.training.selection.select import SelectReport


@click.command("select", short_help="Choose the training episodes that matter, for udrl train --selection.")
@click.option(
    "--share",
    metavar="X",
    type=Real(0, 1, min_open=True),
    default=0.2,
    show_default=True,
    help="Share of each task's training episodes that is kept.",
)
@click.option(
    "--by",
    type=click.Choice(["limr", "random", "inverse"]),
    default="limr",
    show_default=True,
    help="limr: those learned most like the average (LIMR); inverse: least so; random: any, without a probe.",
)
@click.option("--name", metavar="NAME", help="Of the selection. Default: what it is by and the share, as limr-0.2.")
@click.option(
    "--bins",
    metavar="N",
    type=Whole(min=1),
    default=10,
    show_default=True,
    help="Choose bin by bin of each reward and of length, so that commands keep their range; 1: across all.",
)
@click.option(
    "--student",
    metavar="NAME|ID|PATH",
    default="gpt2-mini",
    show_default=True,
    help="The probe: a small student, trained only to see how it learns each episode.",
)
@click.option(
    "--probe-epochs",
    metavar="X",
    type=Real(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Passes of the probe over the episodes.",
)
@click.option("--probe-steps", metavar="N", type=Whole(min=1), help="Default: from --probe-epochs.")
@click.option(
    "--moments",
    metavar="N",
    type=Whole(min=1),
    default=4,
    show_default=True,
    help="How often the probe looks at every episode, at equal distances.",
)
@compute_options
@click.option("--restart", is_flag=True, help="Forget an interrupted or finished probe.")
@common_options()
def command(
    *,
    run: Path,
    seed: int,
    share: float,
    by: Literal["limr", "random", "inverse"],
    name: str | None,
    bins: int,
    student: str,
    probe_epochs: float,
    probe_steps: int | None,
    moments: int,
    device: str,
    precision: str,
    restart: bool,
    as_json: bool,
) -> None:
    """Choose the training episodes that matter, for udrl train --selection NAME; the episodes stay as they are.

    An interrupted probe is gone on with by the same command, and a finished one is used again for another --share,
    --bins or --by.
    """
    from udrl.training.selection.select import select

    with only_results_on_stdout():
        report = select(
            run,
            share=share,
            by=by,
            name=name,
            bins=bins,
            student=student,
            probe_epochs=probe_epochs,
            probe_steps=probe_steps,
            moments=moments,
            seed=seed,
            device=device,
            precision=precision,
            restart=restart,
        )
    emit(report, as_json=as_json, text=describe(report, run))


def describe(report: SelectReport, run: Path) -> str:
    """Return what was chosen, for people."""
    rows = [("task", "kept", "of", "scores kept", "probability a token", "spread of what is kept")]
    for task, chosen in report.tasks.items():
        scores = "-" if chosen.lowest is None else f"{chosen.lowest:.3f} to {chosen.highest:.3f}"
        learned = " ".join(f"{v:.2f}" for v in chosen.trajectory) or "-"
        spread = ", ".join(f"{name} {ratio:.2f}" for name, ratio in chosen.spread.items()) or "-"
        rows.append((task, f"{chosen.kept:,}", f"{chosen.episodes:,}", scores, learned, spread))
    probe = f"; the probe took {report.probe_steps:,} steps and {report.seconds:,.0f} s" if report.probe_steps else ""
    lines = [f"{report.name}: {report.kept:,} of {report.episodes:,} training episodes are kept{probe}", table(rows)]
    if report.unscored:
        lines.append(f"{report.unscored:,} episodes are too long for the probe and are not kept")
    return "\n".join([*lines, f"next: udrl train --run {run} --selection {report.name}"])
