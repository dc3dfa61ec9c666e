"""The sentences on top of a report, from ``summary.json`` alone: what was found, and what speaks against
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from udrl.eval.parity import FEW_ITEMS, PARITY

GOOD, FAIR = 0.8, 0.5
"""Within-input rank correlation from which a student is said to follow a command, or to follow it roughly."""

CONSISTENT = 0.7
"""Share of judgements that survive a change of places, below which a judge is called inconsistent."""


@dataclass(frozen=True)
class ReportSentence:
    """One finding: a ``sentence``, and what it means in ``detail``.

    passed: None where it is neither good nor bad. against: what a sceptic would say, one sentence each. tasks: the same
    for each task, where there are several.
    """

    sentence: str
    detail: str
    passed: bool | None
    against: tuple[str, ...] = ()
    tasks: tuple[ReportSentence, ...] = ()


def report_sentences(summary: Mapping[str, Any]) -> list[ReportSentence]:
    """Return parity with each reference, what a judge and people prefer, obedience to each attribute, and speed."""
    return [*_parity(summary), *_preference(summary), *_people(summary), *_obedience(summary), *_speed(summary)]


def headline_systems(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return for each reference the best student's row that it is fairest to compare with; see ``parity.headline``."""
    return {ref: rows[0] for ref, rows in summary["headline"].items() if rows}


def _parity(summary: Mapping[str, Any]) -> list[ReportSentence]:
    """Every student beside each reference; without a student, every other system beside the leading one."""
    sentences = [
        _one_parity(summary, name, ref, several=len(rows) > 1)
        for ref, rows in summary["headline"].items()
        for name in rows
    ]
    if sentences or not summary["references"]:
        return sentences
    leading = summary["references"][0]
    others = [name for name, system in summary["systems"].items() if system["kind"] != "baseline" and name != leading]
    return [_one_parity(summary, name, leading, several=True) for name in others]


def _one_parity(summary: Mapping[str, Any], name: str, ref: str, *, several: bool) -> ReportSentence:
    entry = summary["parity"][name][ref]
    caveats = tuple(entry["caveats"])
    who = f"{name}: parity" if several else "Parity"
    if entry["ratio"] is None:
        return ReportSentence(f"{who} with {ref}: cannot be told.", "", None, caveats)
    sentence, passed = _said(f"{who} with {ref}", name, entry)
    tasks = entry["per_task"] if len(entry["per_task"]) > 1 else {}
    parts = []
    for task, part in tasks.items():
        if part["ratio"] is None:
            parts.append(ReportSentence(f"{task}: cannot be told.", "", None, tuple(part["caveats"])))
        else:
            parts.append(ReportSentence(*_detailed(_said(task, "", part)), tuple(part["caveats"])))
    return ReportSentence(
        sentence,
        f"{name} reaches {100 * entry['ratio']:.0f} % of the relevance of {ref} (95 % interval in brackets).",
        passed,
        caveats,
        tuple(parts),
    )


def _said(about: str, name: str, entry: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the sentence on one ratio, and whether it is within 5 %."""
    low, high = entry["ci95"]
    within = bool(entry["within_5_percent"])
    at = "at equal length" if entry["equal_length"] else "at another length"
    if name and not entry["equal_length"] and "@" in name and not about.startswith(name):
        at = f"of {name}, at another length"
    said = "yes" if within else "not shown" if high >= PARITY else "no"
    return f"{about} {at}: {entry['ratio']:z.2f} [{low:z.2f}, {high:z.2f}], within 5 %: {said}.", within


def _detailed(said: tuple[str, bool]) -> tuple[str, str, bool]:
    return said[0], "", said[1]


def _preference(summary: Mapping[str, Any]) -> list[ReportSentence]:
    if summary["judge"] is None:
        return []
    judge = summary["judge"]["name"]
    sentences = []
    for name, entries in summary["judge"]["systems"].items():
        for ref, entry in entries.items():
            against = [f"{entry['failed']} of the inputs have no judgement that can be read"] if entry["failed"] else []
            if entry["win_rate"] is None:
                sentences.append(
                    ReportSentence(f"What {judge} prefers, {name} or {ref}: cannot be told.", "", None, tuple(against))
                )
                continue
            low, high = entry["win_rate_ci95"]
            if entry["consistency"] < CONSISTENT:
                share = f"{100 * entry['consistency']:.0f} %"
                against.append(f"only {share} of the judgements are the same when the two texts change places")
            if not summary["parity"][name][ref]["equal_length"]:
                against.append("lengths differ, and judges like long answers")
            sentences.append(
                ReportSentence(
                    f"{judge} prefers {name} to {ref} in {100 * entry['win_rate']:.0f} % of the inputs "
                    f"[{100 * low:.0f}, {100 * high:.0f}].",
                    "A tie counts half; each pair was shown twice, with places swapped.",
                    True if low > 0.5 else False if high < 0.5 else None,
                    tuple(against),
                )
            )
    return sentences


def _people(summary: Mapping[str, Any]) -> list[ReportSentence]:
    if not summary.get("votes"):
        return []
    sentences = []
    for name, entries in summary["votes"]["systems"].items():
        for other, entry in entries.items():
            (low, high), near = entry["win_rate_ci95"], entry["relevance_win_rate"]
            against = [f"only {entry['inputs']} inputs were judged"] if entry["inputs"] < FEW_ITEMS else []
            sentences.append(
                ReportSentence(
                    f"People prefer {name} to {other} in {100 * entry['win_rate']:.0f} % of {entry['votes']:,} votes "
                    f"[{100 * low:.0f}, {100 * high:.0f}].",
                    "A tie counts half; names were not shown."
                    + ("" if near is None else f" On the same pairs relevance prefers it in {100 * near:.0f} %."),
                    True if low > 0.5 else False if high < 0.5 else None,
                    tuple(against),
                )
            )
    return sentences


def _obedience(summary: Mapping[str, Any]) -> list[ReportSentence]:
    sentences = []
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
                share = f"{100 * entry['range']:z.0f} %"
                against.append(f"commands move {name} over only {share} of the range of the teacher's completions")
            sentences.append(
                ReportSentence(
                    f"Commands for {name} are {how} by the {student}: rank correlation {value:z.2f}.",
                    "Of commanded and achieved, within an input: at 1 every larger command gives more, at 0 commands "
                    "have no effect.",
                    True if value >= GOOD else None if value >= FAIR else False,
                    tuple(against),
                )
            )
    return sentences


def _speed(summary: Mapping[str, Any]) -> list[ReportSentence]:
    for name, system in summary["systems"].items():
        if system["kind"] == "student" and system["latency_ms"]:
            middle, high = (_milliseconds(system["latency_ms"][key]) for key in ("p50", "p95"))
            size = f"{system['parameters'] / 1e6:.1f} million parameters; " if system["parameters"] else ""
            detail = f"{size}95 % of the requests within {high} ({name}), one at a time, on this machine."
            return [ReportSentence(f"One request takes {middle}.", detail, None)]
    return []


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
