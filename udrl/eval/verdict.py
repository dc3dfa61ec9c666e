"""The sentences on top of a report, from ``summary.json`` alone: what was found, and what speaks against
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GOOD, FAIR = 0.8, 0.5
"""Within-input rank correlation from which a student is said to follow a command, or to follow it roughly."""


@dataclass(frozen=True)
class Verdict:
    """One finding. ``passed`` None: neither good nor bad; ``against``: what a sceptic would say, one
    sentence each.
    """

    sentence: str
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
        if entry["ratio"] is None:
            found.append(Verdict(f"Parity with {ref}: cannot be told.", None, tuple(entry["caveats"])))
            continue
        low, high = entry["ci95"]
        at = "at equal length" if "@matched" in name else f"with {name}"
        said = "yes" if entry["within_5_percent"] else "no"
        if entry["ratio"] > 1.05 and entry["within_5_percent"]:
            said = "yes, and above it"
        elif not entry["within_5_percent"] and high >= 0.95:
            said = "not shown"
        found.append(
            Verdict(
                f"Parity with {ref} {at}: {entry['ratio']:.2f} [{low:.2f}, {high:.2f}], within 5 %: {said}.",
                bool(entry["within_5_percent"]),
                tuple(entry["caveats"]),
            )
        )
    return found


def _obedience(summary: Mapping[str, Any]) -> list[Verdict]:
    found = []
    for student, attributes in summary["command_following"].items():
        for name, entry in attributes.items():
            value = entry["spearman_within_input"]
            if value is None:
                continue
            how = "follows" if value >= GOOD else "roughly follows" if value >= FAIR else "hardly follows"
            against = []
            if entry["violations"]:
                against.append(
                    f"asking for more {name} gave significantly less of it at {entry['violations']} steps "
                    f"(of {8 * len(entry['per_task'])})"
                )
            if entry["range"] is not None and entry["range"] < FAIR:
                against.append(
                    f"commands move {name} over only {100 * entry['range']:.0f} % of the range of the data"
                )
            found.append(
                Verdict(
                    f"{student} {how} a command for {name}: rank correlation {value:.2f} within an input "
                    "(1 = every larger command gives more, 0 = no effect).",
                    value >= GOOD,
                    tuple(against),
                )
            )
    return found


def _speed(summary: Mapping[str, Any]) -> list[Verdict]:
    for name, system in summary["systems"].items():
        if system["kind"] == "student" and system["latency_ms"]:
            size = (
                f"{system['parameters'] / 1e6:.1f} million parameters"
                if system["parameters"]
                else "a student"
            )
            return [
                Verdict(
                    f"With {size}, {name} answers one request in {system['latency_ms']['p50']:.0f} ms "
                    f"(95 % within {system['latency_ms']['p95']:.0f} ms) on {summary['hardware']}.",
                    None,
                )
            ]
    return []
