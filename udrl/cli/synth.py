"""udrl synth: inputs to a teacher, completions into the ledger, scored episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udrl.cli.common import common_options, emit, only_results_on_stdout

if TYPE_CHECKING:
    from udrl.teacher.synthesis import SynthReport


@click.command("synth", short_help="Have a teacher write completions; ends with scored episodes.")
@click.option(
    "--teacher",
    metavar="NAME|FILE|recorded:FILE",
    default="builtin",
    show_default=True,
    help="Who writes (udrl teachers); recorded:FILE takes completions that already exist: a table "
    "(.jsonl, .csv, .parquet, each also .gz) with the columns input, output and, if you like, task, model.",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="Ask the OpenAI-compatible endpoint there for the teacher's model, such as "
    "http://localhost:8000/v1. Its key comes from the environment (OPENAI_API_KEY).",
)
@click.option("--task", "tasks", metavar="NAME|FILE", multiple=True, help="Repeatable. Default: all that ship.")
@click.option(
    "--inputs",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your inputs: .jsonl, .csv, .txt, .parquet, each also .gz. "
    "Default: the tasks' seeds, filled up with invented ones.",
)
@click.option(
    "--input-field",
    metavar="NAME",
    help="Column of --inputs. Default: the first of text, input, prompt, caption that the file has.",
)
@click.option(
    "--num-inputs",
    metavar="N",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Inputs a task.",
)
@click.option(
    "--samples",
    metavar="K",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Completions an input. Raising it later only adds.",
)
@click.option(
    "--invent/--no-invent",
    default=None,
    help="Fill up with invented inputs. Default: only where --inputs is not given.",
)
@click.option(
    "--reward",
    "rewards",
    metavar="NAME",
    multiple=True,
    default=("relevance",),
    show_default=True,
    help="Repeatable: what the episodes are scored with.",
)
@click.option("--score/--no-score", default=True, help="Score the episodes at the end.")
@click.option("--retry-failed", is_flag=True, help="Ask again for what failed before.")
@click.option("--dry-run", is_flag=True, help="Count what would be asked for; write nothing.")
@common_options()
def command(
    *,
    run: Path,
    seed: int,
    teacher: str,
    base_url: str | None,
    tasks: tuple[str, ...],
    inputs: Path | None,
    input_field: str | None,
    num_inputs: int,
    samples: int,
    invent: bool | None,
    rewards: tuple[str, ...],
    score: bool,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Have a teacher write completions for many inputs, and make scored episodes of them.

    Every response is kept in the run's ledger as it comes: what is there is never asked for again, and an
    interrupted call continues where it was.
    """
    from udrl.teacher.cards import load_card
    from udrl.teacher.recorded import PREFIX
    from udrl.teacher.synthesis import synth

    if not teacher.startswith(PREFIX) and (card := load_card(teacher)).backend != "builtin":
        click.echo(f"{card.title}: licence {card.licence.name}: {card.licence.outputs}", err=True)
    with only_results_on_stdout():
        report = synth(
            run,
            teacher=teacher,
            base_url=base_url,
            tasks=tasks,
            inputs=inputs,
            input_field=input_field,
            num_inputs=num_inputs,
            samples=samples,
            seed=seed,
            invent=invent,
            score=score,
            rewards=rewards,
            retry_failed=retry_failed,
            dry_run=dry_run,
        )
    emit(report, as_json=as_json, text=describe(report))


def describe(report: SynthReport) -> str:
    """Return what a synthesis did, for people."""
    chosen = sum(report.inputs.values())
    lines = [f"{chosen:,} inputs in {len(report.inputs)} tasks, {report.invented:,} of them invented"]
    if dropped := _list({"exact duplicates": report.exact, "near duplicates": report.near, "blank": report.blank}):
        lines.append(f"left out: {dropped}")
    if report.cut:
        lines.append(f"{report.cut:,} inputs were cut at the longest length that is read")
    if report.dry_run:
        asked = report.requests - report.already
        lines.append(f"{asked:,} of {report.requests:,} completions would be asked of {report.teacher}")
        return "\n".join(lines)
    lines.append(
        f"{report.written:,} completions written by {report.teacher} in {report.seconds:,.0f} s, "
        f"{report.already:,} were there before, {report.failed:,} failed"
    )
    if report.failed:
        lines.append("ask again for those that failed with --retry-failed")
    lines.append(f"episodes in {report.run / 'episodes'}: {_list(report.episodes)}")
    lines.append(f"next: udrl train --run {report.run}")
    return "\n".join(lines)


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
