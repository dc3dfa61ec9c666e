"""udrl generate: completions under a command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from udrl.arguments import CANDIDATES
from udrl.cli.common import common_options, compute_options, engine_option, only_results_on_stdout, plain
from udrl.cli.numbers import Real, Whole
from udrl.errors import InputError, UsageError

if TYPE_CHECKING:
    from udrl.commands import Command, Target
    from udrl.decoding.sampling import Sampling
    from udrl.decoding.wording import Wording
    from udrl.student.answers import Answer
    from udrl.student.student import Student

HELD_OUT = 3
"""Inputs of the run that are shown where no text is given."""


class _Relevance(Real):
    """A number from 0 to 1, or "auto"."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


def _targets(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Target]:
    return {name: several[0] for name, several in _by_name(values, "NAME=VALUE with a number or auto", 1).items()}


def _rungs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, list[Target]]:
    return _by_name(values, "NAME=VALUE,VALUE,... with numbers or auto", None)


def _by_name(values: tuple[str, ...], form: str, most: int | None) -> dict[str, list[Target]]:
    """Return what ``NAME=VALUE,VALUE`` options say, at most so many values each; ``form`` says how they are written."""
    by_name: dict[str, list[Target]] = {}
    for text in values:
        name, _, listed = text.partition("=")
        try:
            several: list[Target] = ["auto" if value == "auto" else float(value) for value in listed.split(",")]
        except ValueError:
            several = []
        if not several or not name or (most is not None and len(several) > most):
            raise click.BadParameter(f"'{text}' is not {form}, e.g. relevance=0.7")
        if name in by_name:
            raise click.BadParameter(f"'{name}' is given twice")
        by_name[name] = several
    return by_name


@click.command("generate", short_help="Write completions that obey a command.")
@click.argument("words", metavar="[TEXT | -]", nargs=-1)
@click.option(
    "--target-relevance",
    metavar="R",
    type=_Relevance(0, 1),
    help="How close to the input, 0 to 1 (the cosine of their embeddings), or auto: as close as this student comes.",
)
@click.option("--length", metavar="N", type=Whole(min=1), help="How long, in words.")
@click.option(
    "--target",
    "targets",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_targets,
    help="Repeatable: any attribute of the student; auto is the highest value that it reaches. What is not commanded "
    "is left open.",
)
@click.option(
    "--student",
    metavar="NAME|FOLDER",
    help="Instead of --run: a student that ships, or the folder of one.",
)
@click.option(
    "--ladder",
    metavar="NAME=VALUE,...",
    multiple=True,
    callback=_rungs,
    help="Repeatable: one completion for each value, for all combinations where several attributes have some, such as "
    "relevance=0.8,0.5 and length=10,30. The same text is printed once.",
)
@click.option("--task", metavar="NAME", help="May be left out where the student knows one task.")
@click.option("--input-file", metavar="FILE", type=click.Path(path_type=Path), help="As --inputs of udrl synth.")
@click.option("--input-field", metavar="NAME", help="Column of --input-file.")
@click.option("--num", metavar="N", type=Whole(min=1), default=1, show_default=True, help="An input.")
@click.option(
    "--best-of",
    metavar="N",
    type=Whole(1, CANDIDATES),
    default=1,
    show_default=True,
    help="Write N candidates and keep the most relevant one.",
)
@click.option(
    "--closest-of",
    metavar="N",
    type=Whole(1, CANDIDATES),
    default=1,
    show_default=True,
    help="Write N candidates and keep the one that comes nearest to the command.",
)
@click.option("--score", is_flag=True, help="Add the achieved relevance and length.")
@click.option("--temperature", metavar="X", type=Real(min=0), help="0 is greedy. Default: the student's.")
@click.option("--top-p", metavar="X", type=Real(0, 1, min_open=True), help="Default: the student's.")
@click.option("--max-tokens", metavar="N", type=Whole(min=1), help="Default: the student's.")
@click.option("--max-words", metavar="N", type=Whole(min=1), help="End before the word after these.")
@click.option(
    "--no-repeat",
    metavar="N",
    type=Whole(min=0),
    help="No N tokens come twice in the same order; 0 allows it. Default: the student's.",
)
@click.option(
    "--guidance",
    metavar="W",
    type=Real(min=0),
    help="How far to go in what the command changes: 1 as trained, above it further. Twice the work. Default: the "
    "student's.",
)
@click.option(
    "--length-control",
    type=click.Choice(["off", "soft", "exact"]),
    help="How --length is kept: off leaves it to the student, soft ends at the clause behind it, exact looks ahead "
    "for a clause that ends with the last word. Default: the student's, which is off.",
)
@click.option("--require", metavar="WORD", multiple=True, help="Repeatable: a word or phrase that must appear.")
@click.option(
    "--ban", metavar="WORD", multiple=True, help="Repeatable: a word or phrase that never appears, in any casing."
)
@click.option("--stream", is_flag=True, help="Print words as they come.")
@click.option("--batch-size", metavar="N", type=Whole(min=1), default=64, show_default=True)
@compute_options
@engine_option
@common_options()
def command(
    *,
    run: Path,
    student: str | None,
    seed: int,
    words: tuple[str, ...],
    target_relevance: Target | None,
    length: int | None,
    targets: Mapping[str, Target],
    ladder: Mapping[str, list[Target]],
    task: str | None,
    input_file: Path | None,
    input_field: str | None,
    score: bool,
    max_words: int | None,
    require: tuple[str, ...],
    ban: tuple[str, ...],
    stream: bool,
    device: str,
    precision: str,
    engine: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Write completions for TEXT that obey a command.

    Without TEXT, or with "-", standard input is read, one input a line; at a terminal a few held-out inputs
    of the run are shown instead. --run is a run folder, or the folder of a student.

    With --json, one object a line: input, task, completion, command (the targets by attribute), achieved
    (the same with --score, --best-of or --closest-of, else null), finish_reason (stop or length), seed (gives
    this completion again with the same engine and precision: in float32 always, else where together is 1),
    drawn (candidates written), chosen (which of them this is, from 0), unmet (required words that are not in it),
    clamped (targets beyond what the student reaches: by attribute, asked and reachable), engine and precision
    (what computed it), together (completions computed at once with it; --batch-size 1 makes it 1).
    """
    run = _place(run, student)
    commanded = _merge(targets, {"relevance": target_relevance, "length": length})
    counts: dict[str, int] = {name: given.pop(name) for name in ("num", "best_of", "closest_of", "batch_size")}
    scored = score or max(counts["best_of"], counts["closest_of"]) > 1
    _check_together(words, input_file, input_field, stream=stream, told=scored or as_json)
    _check_ladder(ladder, commanded, counts["num"], stream=stream)
    with only_results_on_stdout():
        from udrl.decoding.wording import Wording
        from udrl.student import load
        from udrl.student.answers import answer, student_rewards
        from udrl.student.ladder import climb, ladder_commands

        wording = Wording(require, ban, max_words)
        answering = load(run, device=device, precision=precision, engine=engine)
        rungs = ladder_commands(answering, _task(task, answering.tasks), commanded, ladder)
        wanted = rungs[0]
        sampling = replace(answering.sampling, **{name: value for name, value in given.items() if value is not None})
        if sampling.guidance != 1:
            _check_guidable(run)
        inputs = _inputs(words, input_file, input_field, run, wanted.task)
    shows_inputs = not words and input_file is None and sys.stdin.isatty()
    how: dict[str, Any] = {"seed": seed, "sampling": sampling, "wording": wording}
    if stream:
        for text in inputs:
            _stream_all(answering, text, wanted, counts["num"], shows_input=shows_inputs, **how)
        return
    how |= {**counts, "rewards": student_rewards(run, answering) if scored else None}
    if ladder:
        del how["num"]
        answers = climb(answering, inputs, rungs, **how)
    else:
        answers = answer(answering, inputs, wanted, **how)
    for one in _quietly(answers):
        click.echo(json.dumps(plain(one), ensure_ascii=False) if as_json else _text(one, shows_inputs))


def _place(run: Path, student: str | None) -> Path:
    """Return the folder of the run or student that answers; UsageError where both are given."""
    if student is None:
        return run
    context = click.get_current_context()
    if context.get_parameter_source("run") is click.core.ParameterSource.COMMANDLINE:
        raise UsageError("both --run and --student are given: leave one of them out")
    from udrl.student.location import student_folder

    return student_folder(student)


def _check_together(
    words: tuple[str, ...], input_file: Path | None, input_field: str | None, *, stream: bool, told: bool
) -> None:
    """Raise UsageError for options that exclude each other; ``told``: more than the words is to be printed."""
    if words and input_file is not None:
        raise UsageError("both TEXT and --input-file are given: leave one of them out")
    if input_field is not None and input_file is None:
        raise UsageError("--input-field names a column of --input-file: give the file, too")
    if stream and told:
        raise UsageError(
            "--stream prints words before the rest is known: leave --best-of, --closest-of, --score and --json out"
        )


def _check_ladder(
    ladder: Mapping[str, list[Target]], commanded: Mapping[str, Target], num: int, *, stream: bool
) -> None:
    """Raise UsageError for what a ladder cannot stand beside."""
    if ladder and (stream or num > 1):
        raise UsageError("--ladder prints one whole completion a rung: leave --stream and --num out")
    for name in ladder:
        if name in commanded:
            raise UsageError(f"{name} is commanded twice: by --ladder, and as {commanded[name]} beside it")


def _quietly(answers: Iterator[Answer]) -> Iterator[Answer]:
    """Yield the answers; what is computed between two of them prints nothing to standard output."""
    while True:
        with only_results_on_stdout():
            one = next(answers, None)
        if one is None:
            return
        yield one


def _stream_all(
    student: Student, text: str, wanted: Command, num: int, *, shows_input: bool, seed: int, **how: Any
) -> None:
    """Print ``num`` completions of an input as they come."""
    if shows_input:
        click.echo(f"input: {text}")
    for k in range(num):
        _stream(student, text, wanted, seed=seed + k, **how)


def _stream(student: Student, text: str, wanted: Command, *, seed: int, sampling: Sampling, wording: Wording) -> None:
    """Print one completion as it comes, and end its line whatever happens."""
    from udrl.student.answers import warn_unmet

    parts = student.stream(text, wanted, seed=seed, sampling=sampling, wording=wording)
    try:
        while True:
            with only_results_on_stdout():
                part = next(parts)
            click.echo(part, nl=False)
    except StopIteration as done:
        unmet = done.value.unmet
    finally:
        click.echo()
    if unmet:
        warn_unmet(text, unmet)


def _check_guidable(run: Path) -> None:
    """Raise UsageError where it is known that the student was never trained without a command."""
    from udrl.decoding.guidance import check_guidable
    from udrl.student.answers import student_run

    if (trained := student_run(run)) is not None:
        check_guidable(trained)


def _merge(targets: Mapping[str, Target], named: Mapping[str, Target | None]) -> dict[str, Target]:
    """Put --target-relevance and --length beside --target; UsageError where an attribute is given twice."""
    merged = dict(targets)
    for name, value in named.items():
        if value is not None:
            if name in merged:
                raise UsageError(f"{name} is commanded twice: leave --target {name}={merged[name]} out")
            merged[name] = value
    return merged


def _task(task: str | None, known: tuple[str, ...]) -> str:
    if task is not None:
        return task
    if len(known) == 1:
        return known[0]
    raise UsageError(f"this student knows several tasks: choose one with --task ({', '.join(known)})")


def _inputs(words: tuple[str, ...], file: Path | None, field: str | None, run: Path, task: str) -> Iterator[str]:
    """Yield the inputs from wherever they come; raises InputError or UsageError where there are none."""
    from udrl.data.inputs import MAX_INPUT_CHARACTERS, MAX_INPUT_WORDS, cut_input, read_inputs
    from udrl.data.tables import text_lines

    if file is not None:
        yield from read_inputs(file, field=field)
        return
    if words and words != ("-",):
        text = " ".join(words)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # a byte of the command line that is no text
            raise InputError(f"TEXT: character {error.start + 1} is not UTF-8: convert it to UTF-8") from None
        texts = iter([text])
    elif words or not sys.stdin.isatty():
        texts = (line for _, line in text_lines("standard input", sys.stdin.buffer))
    else:
        texts = iter(_held_out(run, task))
    holds_some = False
    for text in texts:
        if stripped := text.strip():
            holds_some = True
            shortened, cut = cut_input(stripped)
            if cut:
                click.echo(
                    f"warning: an input was cut at {MAX_INPUT_WORDS} words or {MAX_INPUT_CHARACTERS} characters",
                    err=True,
                )
            yield shortened
    if not holds_some:
        raise InputError("there is no input: give TEXT, --input-file, or lines on standard input")


def _held_out(run: Path, task: str) -> list[str]:
    from udrl.data.episodes import read_episodes
    from udrl.data.run import Run
    from udrl.student.answers import student_run

    episodes = read_episodes((student_run(run) or Run(run)).episodes, splits=("test",))
    texts = list(dict.fromkeys(episode.input for episode in episodes if episode.task == task))[:HELD_OUT]
    click.echo(f"no text given: {len(texts)} held-out inputs of {run} are shown", err=True)
    return texts


def _text(one: Answer, shows_input: bool) -> str:
    lines = [f"input: {one.input}", one.completion] if shows_input else [one.completion]
    if one.achieved is not None:
        lines.append("  " + ", ".join(f"{name} {value:.4g}" for name, value in one.achieved.items()))
    return "\n".join(lines)
