"""The sentences on top of a report, from ``summary.json`` alone: what was found, and what speaks against
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from udrl.eval.parity import PARITY, lengths_differ

GOOD, FAIR = 0.8, 0.5
"""Within-input rank correlation from which a student is said to follow a command, or to follow it roughly."""


@dataclass(frozen=True)
class Verdict:
    """One finding: a ``sentence``, and what it means in ``detail``.

    passed: None where it is neither good nor bad. against: what a sceptic would say, one sentence each.
    """

    sentence: str
    detail: str
    passed: bool | None
    against: tuple[str, ...] = ()


def verdicts(summary: Mapping[str, Any]) -> list[Verdict]:
    """Return parity with each reference, then obedience to each attribute, then speed."""
    return [*_parity(summary), *_obedience(summary), *_speed(summary)]


def headline_systems(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return for each reference the student's row that it is fairest to compare with: the one matched in
    length.

    Where no row was matched, the open one, then any student's row.
    """
    references = list(dict.fromkeys(ref for entry in summary["parity"].values() for ref in entry))
    students = [name for name, system in summary["systems"].items() if system["kind"] == "student"]
    chosen = {}
    for ref in references:
        for wanted in (f"@matched-{ref}", "@matched", "@open", ""):
            fitting = [name for name in students if name.endswith(wanted)]
            if fitting:
                chosen[ref] = fitting[0]
                break
    return chosen


def _parity(summary: Mapping[str, Any]) -> list[Verdict]:
    found = []
    for ref, name in headline_systems(summary).items():
        entry = summary["parity"][name][ref]
        caveats = tuple(entry["caveats"])
        if entry["ratio"] is None:
            found.append(Verdict(f"Parity with {ref}: cannot be told.", "", None, caveats))
            continue
        low, high = entry["ci95"]
        within = bool(entry["within_5_percent"])
        ours, theirs = summary["systems"][name], summary["systems"][ref]
        equal = "@matched" in name and not lengths_differ(ours, theirs)
        at = "at equal length" if equal else f"of {name}, at another length"
        said = "yes" if within else "not shown" if high >= PARITY else "no"
        found.append(
            Verdict(
                f"Parity with {ref} {at}: {entry['ratio']:.2f} [{low:.2f}, {high:.2f}], within 5 %: {said}.",
                f"{name} reaches {100 * entry['ratio']:.0f} % of the relevance of {ref} (95 % interval in brackets).",
                within,
                caveats,
            )
        )
    return found


def _obedience(summary: Mapping[str, Any]) -> list[Verdict]:
    found = []
    for student, attributes in summary["command_following"].items():
        for name, entry in attributes.items():
            value = entry["spearman_within_input"]
            how = "followed" if value >= GOOD else "roughly followed" if value >= FAIR else "hardly followed"
            against = []
            if entry["violations"]:
                steps = 8 * len(entry["per_task"])
                against.append(
                    f"asking for more {name} gave significantly less of it at {entry['violations']} of {steps} steps"
                )
            if entry["range"] is not None and entry["range"] < FAIR:
                share = f"{100 * entry['range']:.0f} %"
                against.append(f"commands move {name} over only {share} of the range of the teacher's completions")
            found.append(
                Verdict(
                    f"Commands for {name} are {how} by the {student}: rank correlation {value:.2f}.",
                    "Of commanded and achieved, within an input: at 1 every larger command gives more, at 0 commands "
                    "have no effect.",
                    True if value >= GOOD else None if value >= FAIR else False,
                    tuple(against),
                )
            )
    return found


def _speed(summary: Mapping[str, Any]) -> list[Verdict]:
    for name, system in summary["systems"].items():
        if system["kind"] == "student" and system["latency_ms"]:
            middle, high = (_milliseconds(system["latency_ms"][key]) for key in ("p50", "p95"))
            size = f"{system['parameters'] / 1e6:.1f} million parameters; " if system["parameters"] else ""
            detail = f"{size}95 % of the requests within {high} ({name}), one at a time, on this machine."
            return [Verdict(f"One request takes {middle}.", detail, None)]
    return []


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
