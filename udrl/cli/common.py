"""What every command shares: the options, machine output, and the names that users see."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from udrl.cli.main import COMMANDS, DEBUG, STUDIES
from udrl.config import Key, load_config
from udrl.data.run import DEFAULT

if TYPE_CHECKING:
    from udrl.data.facts import HygieneFacts
    from udrl.data.hygiene import Hygiene
    from udrl.data.pii import PiiMode

Function = TypeVar("Function", bound=Callable[..., Any])


def common_options(
    *, run: Path | None = DEFAULT, seed: bool = True, default_seed: int | None = 0
) -> Callable[[Function], Function]:
    """Add the options that every command has: --run, --seed, --config, --json, --debug.

    The command receives ``run: Path``, ``seed: int`` and ``as_json: bool``. Commands that work without a run
    (``run=None``) or without chance (``seed=False``) accept the option all the same, so that scripts can pass
    the same ones to every command, and do not receive it. default_seed: None where an earlier stage's seed
    holds unless another is given.
    """

    def decorate(function: Function) -> Function:
        unused = "Accepted by every command; this one does not need it."
        options = [
            click.option(
                "--run",
                metavar="FOLDER",
                type=click.Path(path_type=Path, file_okay=False),
                default=run or DEFAULT,
                show_default=run is not None,
                expose_value=run is not None,
                help="The run folder: everything from synthesis to report." if run is not None else unused,
            ),
            click.option(
                "--seed",
                metavar="N",
                type=click.IntRange(min=0),
                default=default_seed,
                show_default=seed,
                expose_value=seed,
                help=unused
                if not seed
                else "Makes the result repeatable."
                if default_seed == 0
                else "Default: synth's.",
            ),
            click.option(
                "--config",
                metavar="FILE",
                type=click.Path(path_type=Path),
                is_eager=True,
                expose_value=False,
                callback=_configure,
                help="YAML file with defaults for these options; the command line wins.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Machine-readable result on standard output."),
            click.option(
                "--debug",
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_debug,
                help="Show the full traceback of a failure.",
            ),
        ]
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta[DEBUG] = True


def _configure(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is None or context.resilient_parsing:
        return
    keys = {
        name.removeprefix("--"): _key(option)
        for option in context.command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--") and name not in ("--config", "--debug", "--help", "--json")
    }
    path = context.command_path.split()  # udrl study size
    name = " ".join(path[-2:] if len(path) > 2 else path[-1:])
    commands = (*COMMANDS, *(f"study {study}" for study in STUDIES))
    context.default_map = load_config(value, command=name, keys=keys, commands=commands)


def _key(option: click.Option) -> Key:
    """Return how a configuration file may spell the value of ``option``."""
    kind = option.type
    numbers = (click.types.IntParamType, click.types.FloatParamType, click.types.BoolParamType)
    return Key(
        option.name or "",
        several=option.multiple,
        text=not isinstance(kind, numbers),
        whole=isinstance(kind, click.types.IntParamType),
        choices=tuple(map(str, kind.choices)) if isinstance(kind, click.Choice) else (),
    )


@contextlib.contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Send what libraries print to standard error: standard output holds the result and nothing else."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def emit(report: object, *, as_json: bool, text: str) -> None:
    """Print the result of a command: ``report`` as one JSON object, or ``text`` for people."""
    click.echo(json.dumps(plain(report), ensure_ascii=False, allow_nan=False) if as_json else text)


def plain(value: object) -> Any:
    """Return ``value`` as plain JSON data: dataclasses become objects, paths text, NaN and infinity null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a numpy scalar
        return plain(value.item())
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay ``rows`` out in columns; the last column is not padded."""
    if not rows:
        return ""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def compute_options(function: Function) -> Function:
    """Add the options on what computes, and in which numbers: --device and --precision."""
    precision = click.option(
        "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True
    )
    device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
    return device(precision(function))


def engine_option(function: Function) -> Function:
    """Add the option on what computes for the student: --engine."""
    return click.option(
        "--engine",
        type=click.Choice(["auto", "torch", "onnx-int8", "onnx-fp32"]),
        default="auto",
        show_default=True,
        help="auto: on a CPU the fastest verified export (udrl export), unless --precision is given; else torch.",
    )(function)


def hygiene_options(function: Function) -> Function:
    """Add the options on benchmark inputs and personal data, which ``hygiene`` reads."""
    options = [
        click.option(
            "--decontaminate",
            "suites",
            metavar="SUITE|FILE",
            multiple=True,
            help="Repeatable: benchmark suites whose inputs are kept out of training. Default: as before in this run, "
            "else all that ship.",
        ),
        click.option("--no-decontaminate", is_flag=True, help="Train on inputs that benchmark suites ask, too."),
        click.option(
            "--pii",
            type=click.Choice(["off", "mask", "reject"]),
            help="What happens to e-mail addresses, phone numbers, IBANs, card numbers, IP addresses and credentials "
            "in URLs in episodes; the ledger stays as it is. Default: as before in this run, else off.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def hygiene(suites: Sequence[str], no_decontaminate: bool, pii: PiiMode | None) -> Hygiene:
    """Return what the options of ``hygiene_options`` say; raises UsageError where they contradict each other."""
    from udrl.data.hygiene import Hygiene

    if no_decontaminate and suites:
        raise click.UsageError("--decontaminate and --no-decontaminate exclude each other")
    return Hygiene(() if no_decontaminate else tuple(suites) or None, pii)


def said_of_hygiene(facts: HygieneFacts) -> list[str]:
    """Return lines about what run.json records of it, for people."""
    kept_out = facts.decontamination
    if not kept_out.suites:
        return []
    by = ", ".join(f"{count:,} by {how}" for how, count in kept_out.counts.items())
    return [
        f"{kept_out.contaminated:,} of {kept_out.inputs:,} inputs are in the benchmark suites "
        f"{', '.join(kept_out.suites)}{f' ({by})' if by else ''} and are kept out of training"
    ]


def next_of_episodes(run: Path) -> str:
    """Return what to do once the episodes of ``run`` are built: train, or first get some to train on."""
    from udrl.data.episodes import count_kept
    from udrl.data.run import Run

    if count_kept(Run(run).episodes, "train"):
        return f"next: udrl train --run {run}"
    return (
        "there is nothing to train on yet: every episode that was kept belongs to the validation or test split; take "
        f"more inputs (udrl synth --run {run} --num-inputs N)"
    )
