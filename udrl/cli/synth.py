"""udrl synth: inputs to a teacher, completions into the ledger, scored episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udrl.cli.common import common_options, emit, hygiene, hygiene_options, next_of_episodes, only_results_on_stdout
from udrl.cli.numbers import Real, Whole

if TYPE_CHECKING:
    from udrl.data.pii import PiiMode
    from udrl.teacher.synthesis.budget import Estimate
    from udrl.teacher.synthesis.synth import SynthReport


@click.command("synth", short_help="Have a teacher write completions; ends with scored episodes.")
@click.option(
    "--teacher",
    "teachers",
    metavar="NAME|FILE[=WEIGHT]|written|recorded:FILE",
    multiple=True,
    default=("builtin",),
    show_default=True,
    help="Who writes (udrl teachers). Repeatable: each completion is one teacher's, in proportion to the weights. "
    "'written' takes the completions that ship with udrl, recorded:FILE those of your own: a table "
    "(.jsonl, .json, .csv, .tsv, .parquet, each also .gz) "
    "with the columns input, output and, if you like, task, model, or a folder of tables.",
)
@click.option(
    "--base-url",
    metavar="URL",
    help="Ask the OpenAI-compatible endpoint there for the teachers' models, such as "
    "http://localhost:8000/v1. Its key comes from the environment (OPENAI_API_KEY).",
)
@click.option(
    "--backend",
    metavar="NAME",
    type=click.Choice(["vllm", "ray", "transformers", "openai"]),
    help="Run the teachers' models by vllm, ray, transformers or openai. Default: what each card says.",
)
@click.option(
    "--engine-arg",
    "engine_args",
    metavar="NAME=VALUE",
    multiple=True,
    help="Repeatable: an argument of vLLM's engine, such as tensor_parallel_size=2 or quantization=fp8.",
)
@click.option("--task", "tasks", metavar="NAME|FILE", multiple=True, help="Repeatable. Default: all that ship.")
@click.option(
    "--inputs",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your inputs: .jsonl, .json, .csv, .tsv, .txt, .parquet, each also .gz. "
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
    type=Whole(min=1),
    default=2000,
    show_default=True,
    help="Inputs a task. Default with --inputs: all of the file.",
)
@click.option(
    "--samples",
    metavar="K",
    type=Whole(min=1),
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
    help="Repeatable: what the episodes are scored with. Default: what their tasks name, else relevance.",
)
@click.option("--score/--no-score", default=True, help="Score the episodes at the end.")
@click.option("--retry-failed", is_flag=True, help="Ask again for what failed before.")
@click.option("--dry-run", is_flag=True, help="Count requests, tokens, time and money; ask and write nothing.")
@click.option("--max-tokens", metavar="N", type=Whole(min=1), help="Stop this start cleanly at N tokens.")
@click.option(
    "--max-usd",
    metavar="X",
    type=Real(min=0, min_open=True),
    help="Stop this start cleanly at X US dollars, by the prices in the teacher's card.",
)
@click.option(
    "--max-minutes",
    metavar="X",
    type=Real(min=0, min_open=True),
    help="Stop this start cleanly after X minutes.",
)
@click.option(
    "--keep-near-duplicates",
    is_flag=True,
    help="Take inputs too that are nearly the same as others (they always are where a number differs).",
)
@click.option(
    "--max-failure-rate",
    metavar="X",
    type=Real(0, 1),
    default=0.05,
    show_default=True,
    help="Exit 1, with everything kept and built, where a larger share of the answered requests failed.",
)
@click.option(
    "--show-rejected",
    metavar="[RULE]",
    is_flag=False,
    flag_value="all",
    help="Only show what cleaning rejected or repaired in this run, with examples (of RULE, or of all).",
)
@hygiene_options
@common_options()
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    run: Path,
    teachers: tuple[str, ...],
    engine_args: tuple[str, ...],
    num_inputs: int,
    samples: int,
    rewards: tuple[str, ...],
    score: bool,
    show_rejected: str | None,
    suites: tuple[str, ...],
    no_decontaminate: bool,
    pii: PiiMode | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Have teachers write completions for many inputs, and make scored episodes of them.

    Every response is kept in the run's ledger as it comes: what is there is never asked for again, and an
    interrupted call continues where it was. A limit (--max-tokens, --max-usd, --max-minutes) holds for one start.
    """
    if show_rejected is not None:
        from udrl.cli.show_rejected import show

        show(run, show_rejected, as_json=as_json)
        return
    from udrl.teacher.backends.vllm.arguments import read_arguments
    from udrl.teacher.synthesis.synth import NothingLeft, SynthInterrupted, TooManyFailed, synth

    source, from_where = click.core.ParameterSource, context.get_parameter_source
    if not score and from_where("score") is source.COMMANDLINE and from_where("rewards") is source.DEFAULT_MAP:
        rewards = ()  # the configuration file's: what the command line says wins
    try:
        with only_results_on_stdout():
            report = synth(
                run,
                teacher=teachers,
                engine_arguments=read_arguments(engine_args),
                num_inputs=None if from_where("num_inputs") is source.DEFAULT else num_inputs,
                samples=None if from_where("samples") is source.DEFAULT else samples,
                score=score,
                rewards=rewards or None,
                hygiene=hygiene(suites, no_decontaminate, pii),
                announce=_announcement(teachers),
                **given,
            )
    except (NothingLeft, SynthInterrupted, TooManyFailed) as ended:
        emit(ended.report, as_json=as_json, text=describe(ended.report))
        raise
    emit(report, as_json=as_json, text=describe(report))


def _announcement(teachers: Sequence[str]) -> Callable[[SynthReport], None]:
    """Tell the licences of the teachers that are paid for; return what tells the expected cost before they are."""
    from udrl.teacher.backends.recorded import source_of
    from udrl.teacher.synthesis.plan import read_teachers

    recorded = any(source_of(teacher) for teacher in teachers)
    paid = [] if recorded else [card for card, _ in read_teachers(teachers) if card.backend != "builtin"]
    for card in paid:
        click.echo(f"{card.title}: licence {card.licence.name}: {card.licence.outputs}", err=True)

    def announce(report: SynthReport) -> None:
        if paid and report.estimates:
            click.echo("\n".join(_expected(report)), err=True)

    return announce


def describe(report: SynthReport) -> str:
    """Return what a synthesis did, for people."""
    chosen = sum(report.inputs.values())
    tasks = "1 task" if len(report.inputs) == 1 else f"{len(report.inputs)} tasks"
    lines = [f"{chosen:,} inputs in {tasks}, {report.invented:,} of them invented"]
    if dropped := _list({"exact duplicates": report.exact, "near duplicates": report.near, "blank": report.blank}):
        lines.append(f"left out: {dropped}")
    if report.given and report.near > chosen + report.exact:
        lines.append("more than half are near duplicates of others: --keep-near-duplicates takes them too")
    if report.left:
        lines.append(f"{report.left:,} inputs of the file were not taken: a larger --num-inputs takes them")
    if report.cut:
        lines.append(f"{report.cut:,} inputs were cut at the longest length that is read")
    if report.dry_run:
        return "\n".join([*lines, *_expected(report)])
    if any(report.inventing.values()):
        lines.append(f"{_list(report.inventing)}: requests for new inputs")
    lines.append(
        f"{report.written:,} completions written by {report.teacher} in {report.seconds:,.0f} s, "
        f"{report.already:,} were there before, {report.failed:,} failed"
    )
    if report.failures:
        lines.append(f"failed: {_list(report.failures)}")
    if report.already_failed:
        lines.append(f"{report.already_failed:,} of those that were there had failed")
    if report.failed or report.already_failed:
        lines.append("ask again for those that failed with --retry-failed")
    if spent := _spent(report):
        lines.append(spent)
    if report.stopped:
        left = report.requests - report.already - report.written - report.failed
        rest = f"with {left:,} completions to go" if report.requests else "while inputs were chosen"
        lines.append(f"stopped ({report.stopped}) {rest}: the same command goes on")
    if report.episodes:
        lines.append(f"episodes in {report.run / 'episodes'}: {_list(report.episodes)}")
        if any(name.startswith(("rejected:", "repaired:")) for name in report.episodes):
            lines.append(f"see what was rejected or repaired: udrl synth --run {report.run} --show-rejected")
        if report.kept:
            lines.append(next_of_episodes(report.run))
    else:
        lines.append(f"no episodes were built: udrl score --run {report.run} builds them from what there is")
    return "\n".join(lines)


def _expected(report: SynthReport) -> list[str]:
    """Return what is still to be asked, and what it will take, a line for each teacher."""
    asked = report.requests - report.already
    lines = [f"{asked:,} of {report.requests:,} completions are to be asked of {report.teacher}"]
    if report.missing:
        lines.append(f"{report.missing:,} inputs have to be invented first, which takes requests of its own")
    return lines + [_line(estimate) for estimate in report.estimates]


def _line(estimate: Estimate) -> str:
    tokens = estimate.prompt_tokens + estimate.completion_tokens
    ground = "as it wrote before" if estimate.measured else "by the length bounds"
    took = "time not known before some are written" if estimate.seconds is None else f"about {_time(estimate.seconds)}"
    money = "money not known" if estimate.usd is None else f"${estimate.usd:,.2f} at its card's prices"
    return (
        f"{estimate.teacher}: {estimate.requests:,} requests, about {tokens:,} tokens {ground} "
        f"({estimate.prompt_tokens:,} read, {estimate.completion_tokens:,} written, "
        f"{estimate.most_completion_tokens:,} at most), {took}, {money}"
    )


def _spent(report: SynthReport) -> str:
    """Return what all starts cost together; empty where nothing was paid for."""
    cost = report.cost
    if not cost or not (cost["usd"] or cost["gpu_hours"]):
        return ""
    tokens = cost["tokens"]
    parts = [f"{tokens['prompt']:,} tokens read, {tokens['completion']:,} written", f"{_time(cost['seconds'])}"]
    if cost["gpu_hours"]:
        parts.append(f"{cost['gpu_hours']:,.2f} GPU-hours")
    if cost["usd"] is not None:
        parts.append(f"${cost['usd']:,.2f}")
    return f"all starts of this run: {', '.join(parts)}"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:,.0f} s" if minutes < 2 else f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
