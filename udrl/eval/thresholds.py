"""Limits on figures of summary.json, for a user's own CI: ``udrl bench --fail-under parity.llama3=0.95``.

A figure is a path of keys with dots between them, from the top of summary.json:

    parity.REF                              the best student's row, as the verdict names it, beside REF
    parity.SYSTEM.REF.win_rate              any other key of it; parity.SYSTEM.REF alone is its ratio
    systems.SYSTEM.relevance                the mean; .lo and .hi are the ends of its interval
    command_following.student.length.spearman_within_input

A key may be shortened to a part of it that no other has, without its punctuation: ``llama3`` for
Meta-Llama-3-8B-Instruct. Keys that hold dots themselves are found too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from udrl.errors import UsageError, suggestion
from udrl.eval.recorded import model_named
from udrl.eval.report_sentences import headline_systems

ENDS = {"lo": 0, "hi": 1}


@dataclass(frozen=True)
class Limit:
    """What a figure must not be below (or ``above``)."""

    figure: str
    value: float
    above: bool


def parse(text: str, *, above: bool) -> Limit:
    """Read ``FIGURE=VALUE``; raises UsageError for anything else."""
    figure, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not figure.strip() or math.isnan(number):
        raise UsageError(f"'{text}' is no limit: write FIGURE=VALUE, as parity.llama3=0.95")
    return Limit(figure.strip(), number, above)


def missed(summary: Mapping[str, Any], limits: Sequence[Limit]) -> list[str]:
    """Return a sentence for each limit that does not hold; a figure that could not be computed holds none.

    Raises UsageError for a figure that summary.json does not have.
    """
    misses = []
    for limit in limits:
        value = figure_at(summary, limit.figure)
        if value is None:
            misses.append(f"{limit.figure} could not be computed, and was to be compared with {limit.value:g}")
        elif (value > limit.value) if limit.above else (value < limit.value):
            side = "above" if limit.above else "below"
            misses.append(f"{limit.figure} is {value:.4g}, {side} the limit {limit.value:g}")
    return misses


def figure_at(summary: Mapping[str, Any], path: str) -> float | None:
    """Return the number that ``path`` leads to, None where it is null; raises UsageError where it leads to none."""
    here: Any = summary
    rest = path
    first, _, last = path.partition(".")
    if first == "parity" and last:
        ref, beyond = _step(dict.fromkeys(summary["references"]), last, path, strict=False)
        if ref is not None and _is_short(summary, beyond):
            row = headline_systems(summary).get(ref)
            if row is None:
                raise UsageError(f"'{path}': no student is compared with {ref}: write parity.SYSTEM.{ref}")
            here, rest = summary["parity"][row][ref], beyond
    while rest:
        if isinstance(here, Mapping) and set(here) >= {"ci95"} and rest in ENDS:
            return None if here["ci95"] is None else float(here["ci95"][ENDS[rest]])
        if isinstance(here, list) and rest in ENDS and len(here) == 2:
            return float(here[ENDS[rest]])
        if not isinstance(here, Mapping):
            raise UsageError(f"'{path}': there is nothing below {path[: -len(rest) - 1]} in summary.json")
        key, rest = _step(here, rest, path, strict=True)
        here = here[key]
    if isinstance(here, Mapping):
        here = next((here[key] for key in ("mean", "ratio", "p50", "usd") if key in here), here)
    if here is None:
        return None
    if isinstance(here, bool | int | float):
        return float(here)
    raise UsageError(f"'{path}' is no number in summary.json: name one of what is below it")


def _is_short(summary: Mapping[str, Any], beyond: str) -> bool:
    """Say whether ``beyond`` goes on below a parity, and does not name another reference of a system."""
    entries = (entry for of in summary["parity"].values() for entry in of.values())
    keys: Mapping[str, Any] = next(entries, {})
    return not beyond or beyond in ENDS or beyond.split(".")[0] in keys


def _step(here: Mapping[str, Any], rest: str, path: str, *, strict: bool) -> tuple[Any, str]:
    """Return the key that ``rest`` begins with, and what remains; the longest key first, then a shortened one."""
    parts = rest.split(".")
    for count in range(len(parts), 0, -1):
        if (key := ".".join(parts[:count])) in here:
            return key, ".".join(parts[count:])
    for count in range(len(parts), 0, -1) if len(parts[0]) > 2 else ():
        meant = model_named(".".join(parts[:count]), here)
        if meant is not None:
            return meant, ".".join(parts[count:])
    if not strict:
        return None, rest
    raise UsageError(
        f"'{path}': summary.json has no '{parts[0]}' there{suggestion(parts[0], here)}; there is "
        f"{', '.join(here) or 'nothing'}"
    )
