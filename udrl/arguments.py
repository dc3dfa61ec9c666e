"""What may be given to udrl's functions and options: the range of every number by its name, and checks by annotation.

A number means the same wherever it is given, so that its range stands here, once: options of the command line and
arguments of Python are held against the same table.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from udrl.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
Fields = ParamSpec("Fields")
Record = TypeVar("Record")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

RUN = "runs/default"
"""The run folder of a call that names none."""
LARGEST = 2**31 - 1
"""The largest count: what is larger is a mistake, and no machine gets there. Seeds may be of any size."""
CANDIDATES = 10_000
"""The most candidates that one answer is picked from: they are written and scored together."""


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high`` (None: without end); above and below: without the end itself."""

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Say whether ``value`` lies within."""
        over = self.low is None or (value > self.low if self.above else value >= self.low)
        under = self.high is None or (value < self.high if self.below else value <= self.high)
        return over and under

    def __str__(self) -> str:
        low = "" if self.low is None else f"{'above' if self.above else 'at least'} {self.low:g}"
        high = "" if self.high is None else f"{'below' if self.below else 'at most'} {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


COUNT, FROM_0, SHARE = Range(1), Range(0), Range(0, 1)
POSITIVE, PART, INSIDE = Range(0, above=True), Range(0, 1, above=True), Range(0, 1, above=True, below=True)

RANGES = {
    **dict.fromkeys(
        ("batch_size", "bins", "calibration_inputs", "calls", "jobs", "limit", "max_samples",
         "max_tokens", "max_words", "micro_batch", "moments", "num", "num_inputs", "per_input", "per_task",
         "probe_steps", "rounds", "samples", "start_steps", "steps", "sweep_inputs", "tokens", "updates",
         "validate_every", "validation_inputs", "save_every"), COUNT),
    **dict.fromkeys(("freeze", "gap", "guidance", "kl", "lora", "machine_usd", "no_repeat", "patience", "seed",
                     "signs_inputs", "temperature", "top_k", "weight_decay"), FROM_0),
    **dict.fromkeys(("beta", "clip", "epochs", "explore_temperature", "learning_rate", "max_minutes", "max_usd",
                     "probe_epochs", "ratio_clip_high", "row_learning_rate", "seconds",
                     "weight_temperature"), POSITIVE),
    **dict.fromkeys(("best_bin", "curriculum", "diversity_floor", "max_failure_rate", "min_p", "open_all",
                     "open_each", "random", "replay", "warmup"), SHARE),
    **dict.fromkeys(("best", "share", "top_p"), PART),
    **dict.fromkeys(("best_of", "closest_of"), Range(1, CANDIDATES)),
    **dict.fromkeys(("mismatched", "spliced", "truncated"), Range(0, 16)),
    "group_size": Range(2),
    "original": Range(0, 1, below=True),
    "ratio_clip": INSIDE,
    "vocab_size": Range(257, 1_000_000),
}  # fmt: skip
"""The range of every number that has a name of its own; see `check_number`."""

ZERO_IS_OFF = frozenset({"calibration_inputs", "save_every", "updates", "validate_every"})
"""Counts that Python may set to 0: off, or the default."""


def check_number(name: str, value: object, *, whole: bool) -> None:
    """Raise UsageError where ``value`` is no finite number in the range of its ``name``, or not ``whole``."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise UsageError(f"{name} must be a {'whole ' if whole else ''}number, got {_shown(value)}")
    number = cast("float", value)
    if not isinstance(value, Integral) and not math.isfinite(number):
        raise UsageError(f"{name} must be a finite number, got {number}")
    range_ = FROM_0 if name in ZERO_IS_OFF else RANGES.get(name, Range())
    if not range_.holds(number):
        raise UsageError(f"{name} must be {range_}, got {_shown(value)}")
    if name not in ("seed", "seeds") and abs(number) > LARGEST and whole:
        raise UsageError(f"{name} must be at most {LARGEST}, got {_shown(value)}")
    if not whole and isinstance(value, Integral) and abs(number) > LARGEST**2:
        raise UsageError(f"{name} must be a finite number, got {_shown(value)}")


def fitting_seed(seed: int, *, bits: int = 63) -> int:
    """Return ``seed`` for a library that takes seeds of ``bits`` bits only: a larger one by its hash."""
    if 0 <= seed < 1 << bits:
        return seed
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big") >> (64 - bits)


def check_text(name: str, value: object) -> None:
    """Raise UsageError where ``value`` is no text, or holds half a character (a lone surrogate)."""
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text, got {_shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name} holds half a character at place {error.start + 1} (a lone surrogate): leave it out"
        ) from None


def check_texts(name: str, values: object) -> None:
    """Raise UsageError where ``values`` is not several texts."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageError(f"{name} must be a list of texts, got {_shown(values)}")
    if isinstance(values, Sequence):  # what is read as it comes is checked as it comes
        for index, value in enumerate(values):
            check_text(f"{name}[{index}]", value)


def check_path(name: str, value: object) -> None:
    """Raise UsageError where ``value`` is no path."""
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{name} must be a path, got {_shown(value)}")
    if not os.fspath(value) or "\0" in str(value):
        raise UsageError(f"{name} is no path: {_shown(str(value))}")


def check_paths(name: str, values: object) -> None:
    """Raise UsageError where ``values`` is not several names or paths."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageError(f"{name} must be a list, got {_shown(values)}")
    for index, value in enumerate(values):
        check_path(f"{name}[{index}]", value)


def check_commands(name: str, values: object) -> None:
    """Raise UsageError where ``values`` is not several commands."""
    if not isinstance(values, Sequence):
        raise UsageError(f"{name} must be a list of commands, got {_shown(values)}")
    for index, value in enumerate(values):
        check_command(f"{name}[{index}]", value)


def check_seeds(name: str, values: object) -> None:
    """Raise UsageError where ``values`` is neither a whole number nor several."""
    for value in values if isinstance(values, Sequence) and not isinstance(values, str | bytes) else [values]:
        check_number(name, value, whole=True)


def check_command(name: str, value: object) -> None:
    """Raise UsageError where ``value`` is no `Command`."""
    if not (hasattr(value, "task") and hasattr(value, "targets")):  # commands stand above, and they load numpy
        raise UsageError(f"{name} must be a udrl.Command, got {_shown(value)}")


def _check_run(name: str, value: object) -> None:
    if isinstance(value, str | os.PathLike):  # a Run is one already
        check_path(name, value)
    elif not hasattr(value, "path"):
        raise UsageError(f"{name} must be a path, got {_shown(value)}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, got {_shown(value)}")


CHECKS: dict[str, Callable[[str, object], None]] = {
    "int": functools.partial(check_number, whole=True),
    "float": functools.partial(check_number, whole=False),
    "bool": _check_flag,
    "str": check_text,
    "Sequence[str]": check_texts,
    "Iterable[str]": check_texts,
    "tuple[str, ...]": check_texts,
    "Path | str": check_path,
    "str | Path": check_path,
    "Run | Path | str": _check_run,
    "Sequence[str | Path]": check_paths,
    "Sequence[int] | int": check_seeds,
    "Command": check_command,
    "Sequence[Command]": check_commands,
}
"""By annotation; others are the function's own business."""


def checked(function: Function) -> Function:
    """Let a public function hold what it is given against its annotations and `RANGES` before it does anything.

    Raises UsageError that names the argument. A subclass of int such as numpy's counts as one; True is no number.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        check_call(signature, arguments, named)
        return function(*arguments, **named)

    return cast("Function", call)


class ByKeywords(Protocol[Fields, Result_co]):
    """A function of a run that takes the fields of a record as arguments of its own; see `by_keywords`."""

    def __call__(self, run: Path | str = ..., *arguments: Fields.args, **named: Fields.kwargs) -> Result_co:
        """Call it."""


def by_keywords(
    record: Callable[Fields, Record],
) -> Callable[[Callable[[Path | str, Record], Result]], ByKeywords[Fields, Result]]:
    """Let a public function of a run and a dataclass ``record``, whose fields are keywords, be called by those fields.

    So its options stand in one list, and whoever calls it writes ``train(run, steps=20)``. The dataclass checks its
    fields (`check_fields`); UsageError also for a name that it does not have. Without a run it is runs/default.
    """
    fields = list(inspect.signature(record).parameters.values())
    run = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=RUN, annotation="Path | str")
    signature = inspect.Signature([run, *fields])

    def decorate(function: Callable[[Path | str, Record], Result]) -> ByKeywords[Fields, Result]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Result:
            given = dict(_bound(signature, arguments, named))
            run = given.pop("run", RUN)
            check_value("run", run, "Path | str")
            return function(run, cast("Callable[..., Record]", record)(**given))

        cast(Any, call).__signature__ = signature
        return call

    return decorate


def check_call(signature: inspect.Signature, arguments: Sequence[Any], named: dict[str, Any]) -> None:
    """Raise UsageError for the first argument of a call that is not what ``signature`` annotates."""
    for name, value in _bound(signature, arguments, named).items():
        check_value(name, value, str(signature.parameters[name].annotation))


def _bound(signature: inspect.Signature, arguments: Sequence[Any], named: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a call by their names; UsageError where they do not fit."""
    try:
        return signature.bind(*arguments, **named).arguments
    except TypeError as error:
        raise UsageError(f"the call does not fit: {error}") from None


def check_value(name: str, value: object, annotation: str) -> None:
    """Raise UsageError where ``value`` is not what a simple ``annotation`` says; others are let through."""
    kind = annotation.removesuffix(" | None")
    if kind in CHECKS and (value is not None or kind == annotation):
        CHECKS[kind](name, value)


def check_fields(record: Any) -> None:
    """Raise UsageError where a field of the dataclass ``record`` is not what its annotation and `RANGES` say."""
    for field in dataclasses.fields(record):
        check_value(field.name, getattr(record, field.name), str(field.type))


def _shown(value: object) -> str:
    if isinstance(value, Integral) and abs(int(value)) > 10**20:
        return "a number of more than 20 digits"
    text = repr(value).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:59]}…"
