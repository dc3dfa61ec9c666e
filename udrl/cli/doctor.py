"""udrl doctor: what this machine can do."""

from __future__ import annotations

from pathlib import Path

import click

from udrl.cli.common import common_options, emit, only_results_on_stdout, table

MARKS = {"ok": "ok", "limited": "--", "missing": "!!"}


@click.command("doctor", short_help="Say what this machine can do, and what to install for the rest.")
@common_options(seed=False)
def command(run: Path, *, as_json: bool) -> None:
    """Say what this machine can do, and what to install for the rest.

    Looks at Python, torch, memory, GPU, bf16, the hub, vLLM, the encoder, SmolLM2 and the disk of the run folder. "--"
    marks what udrl does without, "!!" what the demo cannot do without; with one of those the exit code is 1.
    """
    from udrl.doctor import examine

    with only_results_on_stdout():
        diagnosis = examine(run)
    rows = [(MARKS[c.state], c.name, c.found + (f": {c.advice}" if c.advice else "")) for c in diagnosis.checks]
    verdict = "ready: try udrl demo" if diagnosis.ready else "not ready: see the lines marked !!"
    emit(diagnosis, as_json=as_json, text=f"{table(rows)}\n\n{verdict}")
    if not diagnosis.ready:
        raise click.exceptions.Exit(1)
