"""udrl demo: the whole flow, to see it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udrl.cli.common import common_options, emit, only_results_on_stdout

if TYPE_CHECKING:
    from udrl.demo import DemoReport


@click.command("demo", short_help="The whole flow on this machine: no GPU, no download.")
@common_options(run=Path("runs/demo"))
def command(*, run: Path, seed: int, as_json: bool) -> None:
    """Run the whole flow on this machine: synth, train, bench, then one input under three commands.

    No GPU and no download: the built-in teacher writes, a small student learns from scratch. Takes about 25
    minutes on 2 cores. Interrupted and started again, it goes on where it was.
    """
    from udrl.demo import demo

    with only_results_on_stdout():
        report = demo(run, seed=seed, announce=lambda line: click.secho(f"\n{line}", err=True, bold=True))
    emit(report, as_json=as_json, text=describe(report))


def describe(report: DemoReport) -> str:
    """Return what the demo shows, for people."""
    lines = [f"input: {report.answers[0].input}"]
    for one in report.answers:
        achieved = one.achieved or {}
        asked = ", ".join(f"{name} {value:g}" for name, value in one.command.items())
        got = ", ".join(f"{name} {achieved[name]:.2g}" for name in one.command if name in achieved)
        lines += ["", f"asked for {asked}", f"  {one.completion}", f"  achieved {got}"]
    lines += ["", *report.findings]
    task = report.answers[0].task
    # as it was called: make demo does not put the environment on the path
    called = f"{Path(sys.executable).name} -m udrl" if Path(sys.argv[0]).name == "__main__.py" else sys.argv[0]
    udrl = "udrl" if shutil.which("udrl") else called
    lines += [
        "",
        f"{report.parameters / 1e6:.1f}M parameters, {report.episodes:,} episodes, {report.seconds / 60:.1f} minutes",
        f"open the report:  {report.report}",
        "",
        "try next:",
        f'  {udrl} generate --run {report.run} --task {task} --target-relevance 0.6 --score "your own idea"',
        f"  {udrl} bench --run {report.run} --suite foreign",
        f"  {udrl} synth --inputs yours.jsonl  # then train; docs/tasks.md: a task of your own",
    ]
    return "\n".join(lines)
