"""The section of the report about command following: curves, figures, and one input under three commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from udrl.commands import LENGTH
from udrl.eval.benchmark_files import Row as CompletionRow
from udrl.eval.pages import glossary
from udrl.eval.pages.charts import curve_chart
from udrl.eval.pages.tables import Row, Table, number

ONE_INPUT_LEVELS = (0, 4, 8)
"""Levels of the sweep that are shown with their completions: 10, 50 and 90 %."""


def commands_section(figures: Mapping[str, Any], rows: Sequence[CompletionRow]) -> list[dict[str, Any]]:
    """Return for every student and attribute the curve, figures, one input, and the curves by task."""
    return [
        _attribute(student, name, entry, rows)
        for student, attributes in figures["command_following"].items()
        for name, entry in attributes.items()
    ]


def _attribute(student: str, name: str, entry: Mapping[str, Any], rows: Sequence[CompletionRow]) -> dict[str, Any]:
    error_unit = "10 % of the target, at least a word" if name == LENGTH else "the range it can reach"
    before = entry.get("uncalibrated") or {}
    parts = entry["per_task"] if len(entry["per_task"]) > 1 else {}
    return {
        "student": student,
        "name": name,
        "chart": _curve("mean of all tasks", name, entry),
        "uncalibrated": bool(before.get("curve")),
        "figures": [
            *(
                (_figure(key, heading, entry, before), meaning.replace("{unit}", error_unit))
                for key, heading, meaning in glossary.FIGURES
            ),
            *(
                (f"Leakage into {other}: {number(value)}", glossary.LEAKAGE.replace("{other}", other))
                for other, value in entry["leakage"].items()
            ),
        ],
        "one_input": _one_input(student, name, rows),
        "by_task": [(_curve(task, name, part, compact=True), _caption(part)) for task, part in parts.items()],
    }


def _figure(key: str, heading: str, entry: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    digits = 0 if key == "violations" else 2
    without = f" (without calibration {number(before[key], digits)})" if before.get(key) is not None else ""
    return f"{heading}: {number(entry[key], digits)}{without}"


def _curve(title: str, name: str, part: Mapping[str, Any], *, compact: bool = False) -> Markup:
    return curve_chart(
        part["curve"],
        name=name,
        unit="words" if name == LENGTH else "",
        title=title,
        reachable=part["reachable"],
        before=(part.get("uncalibrated") or {}).get("curve") or (),
        compact=compact,
    )


def _caption(part: Mapping[str, Any]) -> str:
    return (
        f"rank correlation {number(part['spearman_within_input'])}, error {number(part['error'])}, "
        f"range {number(part['range'])}"
    )


def _one_input(student: str, name: str, rows: Sequence[CompletionRow]) -> dict[str, Any] | None:
    """One input at the lowest, middle and highest level: the first of the sweep, not a chosen one."""
    sweep = [
        row for row in rows if row["part"] == "following" and row["attribute"] == name and row["system"] == student
    ]
    if not sweep:
        return None
    first = sweep[0]
    digits = 0 if name == LENGTH else 2
    lines = [
        Row(
            number(json.loads(row["targets"])[name], digits),
            [number(row.get(name), digits)],
            prose=row["completion"] or "",
        )
        for row in sweep
        if (row["task"], row["input_id"]) == (first["task"], first["input_id"])
        and row["sample"] == 0
        and row["level"] in ONE_INPUT_LEVELS
    ]
    label = f"One input under commands for {name}"
    return {
        "task": first["task"],
        "input": first["input"],
        "table": Table(label, ["Commanded", "Achieved"], lines, prose="Completion"),
    }
