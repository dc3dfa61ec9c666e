"""The section of the report about command following: curves, figures, and one input under three commands.

Every function returns HTML in which each text from outside is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from udrl.commands import LENGTH
from udrl.eval.pages import glossary
from udrl.eval.pages.charts import curve_chart
from udrl.eval.pages.markup import definitions, number, row_of, table_of

ONE_INPUT_LEVELS = (0, 4, 8)
"""Levels of the sweep that are shown with their completions: 10, 50 and 90 %."""


def commands_section(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return for every student and attribute the curve, figures, one input, and the curves by task."""
    if not found["command_following"]:
        return ""
    parts = [
        '<section id="commands"><h2>Does it do what the command says?</h2>',
        f"<p>{glossary.COMMANDS}</p>",
    ]
    for student, attributes in found["command_following"].items():
        parts += [_attribute(student, name, entry, rows) for name, entry in attributes.items()]
    return "".join(parts) + "</section>"


def _attribute(student: str, name: str, entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    unit = "words" if name == LENGTH else ""
    error_unit = "10 % of the target, at least a word" if name == LENGTH else "the range it can reach"
    before = entry.get("uncalibrated") or {}
    figures = [
        (_figure(key, heading, entry, before), meaning.replace("{unit}", error_unit))
        for key, heading, meaning in glossary.FIGURES
    ] + [
        (f"Leakage into {other}: {number(value)}", glossary.LEAKAGE.replace("{other}", other))
        for other, value in entry["leakage"].items()
    ]
    chart = curve_chart(
        entry["curve"],
        name=name,
        unit=unit,
        title="mean of all tasks",
        reachable=entry["reachable"],
        before=before.get("curve") or (),
    )
    dashed = f"<figcaption>{glossary.UNCALIBRATED}</figcaption>" if before.get("curve") else ""
    small = "".join(_task_curve(task, name, unit, part) for task, part in entry["per_task"].items())
    by_task = f'<details><summary>Curves of {escape(name)} by task</summary><div class="charts">{small}</div></details>'
    return (
        f"<h3>{escape(student)}: {escape(name)}</h3>"
        f'<div class="chart-and-text"><figure>{chart}{dashed}</figure>{definitions(figures)}</div>'
        f"{_one_input(student, name, rows)}{by_task if len(entry['per_task']) > 1 else ''}"
    )


def _figure(key: str, heading: str, entry: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    digits = 0 if key == "violations" else 2
    without = f" (without calibration {number(before[key], digits)})" if before.get(key) is not None else ""
    return f"{heading}: {number(entry[key], digits)}{without}"


def _task_curve(task: str, name: str, unit: str, part: Mapping[str, Any]) -> str:
    before = (part.get("uncalibrated") or {}).get("curve") or ()
    chart = curve_chart(
        part["curve"], name=name, unit=unit, title=task, reachable=part["reachable"], before=before, compact=True
    )
    said = (
        f"rank correlation {number(part['spearman_within_input'])}, error {number(part['error'])}, "
        f"range {number(part['range'])}"
    )
    return f"<figure>{chart}<figcaption>{said}</figcaption></figure>"


def _one_input(student: str, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One input at the lowest, middle and highest level: the first of the sweep, not a chosen one."""
    sweep = [
        row for row in rows if row["part"] == "following" and row["attribute"] == name and row["system"] == student
    ]
    if not sweep:
        return ""
    first = sweep[0]
    digits = 0 if name == LENGTH else 2
    lines = [
        row_of(
            number(json.loads(row["targets"])[name], digits),
            (number(row.get(name), digits),),
            text=row["completion"] or "",
        )
        for row in sweep
        if (row["task"], row["input_id"]) == (first["task"], first["input_id"])
        and row["sample"] == 0
        and row["level"] in ONE_INPUT_LEVELS
    ]
    table = table_of(f"One input under commands for {name}", ["Commanded", "Achieved", "Completion"], lines)
    return (
        f'<p class="small">One input ({escape(first["task"])}) under three commands, as they came: '
        f"<em>{escape(first['input'])}</em></p>{table}"
    )
