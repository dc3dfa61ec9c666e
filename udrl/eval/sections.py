"""The sections of the report between verdict and examples: tables, pictures, and what they mean.

Every function returns HTML in which each text from outside (names, inputs, completions, notes) is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from udrl.commands import LENGTH
from udrl.eval import glossary
from udrl.eval.charts import Estimate, curve_chart, forest_chart
from udrl.eval.markup import ABSENT, below, definitions, number, percent, role, row_of, table_of
from udrl.eval.parity import PARITY

ONE_INPUT_LEVELS = (0, 4, 8)
"""Levels of the sweep that are shown with their completions: 10, 50 and 90 %."""


def references_of(found: Mapping[str, Any]) -> list[str]:
    """Return the references that systems are compared with; the first one leads."""
    return list(dict.fromkeys(ref for entry in found["parity"].values() for ref in entry))


def systems_section(found: Mapping[str, Any]) -> str:
    """Return the table of all systems with the meaning of every column and system."""
    references = references_of(found)
    leading = references[0] if references else None
    against = f" Anchored and Agreement are against {escape(leading)}." if leading else ""
    table = table_of(
        "Systems",
        ["System", *(heading for _, heading, _ in glossary.COLUMNS)],
        (_system_row(name, system, leading) for name, system in found["systems"].items()),
    )
    columns = definitions(((heading, meaning) for _, heading, meaning in glossary.COLUMNS), columns=True)
    rows = definitions(((name, _meaning(name, s)) for name, s in found["systems"].items()), columns=True)
    return f"""<section id="systems"><h2>Systems side by side</h2>
<p>Every system answered the same inputs. Small figures under a value are its 95 % interval.{against}</p>
{table}
<details open><summary>What the columns mean</summary>{columns}</details>
<details open><summary>What the systems are</summary>{rows}</details>
</section>"""


def _meaning(name: str, system: Mapping[str, Any]) -> str:
    for part, text in glossary.SYSTEMS:
        if name == part or (part.startswith("@") and part in name):
            return text
    return f"a {system['kind']}, writing with care; several completions an input"


def _system_row(name: str, system: Mapping[str, Any], ref: str | None) -> str:
    cells = {
        "relevance": _figure(system["relevance"]),
        "anchored": _figure(system["anchored_relevance"].get(ref)),
        "agreement": _figure(system["agreement"].get(ref)),
        "relevance_second": _figure(system["relevance_second"]),
        "length": _figure(system["length"], 1),
        "copy_rate": _figure(system["copy_rate"]),
        "novelty": _figure(system["novelty"]),
        "distinct_2": _diversity(system["distinct_2"]),
        "pairwise_distance": _diversity(system["pairwise_distance"]),
        "stop_rate": percent(system["stop_rate"]),
        "answered": f"{percent(system['coverage'])}{below(str(system['failed']))}",
        "latency": _latency(system["latency_ms"]),
        "tokens_per_second": number(system["tokens_per_second"], 0),
        "parameters": _size(system["parameters"]),
    }
    engine = ", ".join(
        str(part) for part in (system["kind"], system["engine"], system["precision"]) if part is not None
    )
    head = f'{escape(name)}<span class="kind">{escape(engine)}</span>'
    return row_of(head, (cells[key] for key, _, _ in glossary.COLUMNS), system["kind"])


def parity_section(found: Mapping[str, Any]) -> str:
    """Return a forest plot against each reference, and what speaks against each comparison."""
    references = references_of(found)
    if not references:
        return ""
    parts = ['<section id="parity"><h2>Parity with the reference</h2>', f"<p>{glossary.PARITY}</p>"]
    for ref in references:
        entries = {
            name: entry[ref]
            for name, entry in found["parity"].items()
            if ref in entry and entry[ref]["ratio"] is not None
        }
        kinds = {name: found["systems"][name]["kind"] for name in entries}
        if not entries:
            continue
        chart = forest_chart(
            [Estimate(name, e["ratio"], e["ci95"][0], e["ci95"][1], role(kinds[name])) for name, e in entries.items()],
            title=f"Parity with {ref}",
            reference=ref,
            bound=PARITY,
        )
        table = table_of(
            "Parity",
            ["System", "Ratio", "Wins", "Within 5 %", "What speaks against it"],
            (_parity_row(name, entry, kinds[name]) for name, entry in entries.items()),
        )
        parts.append(f'<h3>Against {escape(ref)}</h3><div class="chart-and-text"><figure>{chart}</figure>{table}</div>')
    return "".join(parts) + f'<p class="small muted">{glossary.WINS}</p></section>'


def _parity_row(name: str, part: Mapping[str, Any], kind: str) -> str:
    caveats = "; ".join(part["caveats"]) or "nothing found"
    ratio = _figure({"mean": part["ratio"], "ci95": part["ci95"]})
    said = "yes" if part["within_5_percent"] else "no"
    return row_of(escape(name), (ratio, percent(part["win_rate"]), said), kind, text=caveats)


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
    figures = [
        (
            f"{heading}: {number(entry[key], 0 if key == 'violations' else 2)}",
            meaning.replace("{unit}", error_unit),
        )
        for key, heading, meaning in glossary.FIGURES
    ] + [
        (f"Leakage into {other}: {number(value)}", glossary.LEAKAGE.replace("{other}", other))
        for other, value in entry["leakage"].items()
    ]
    chart = curve_chart(entry["curve"], name=name, unit=unit, title="mean of all tasks", reachable=entry["reachable"])
    small = "".join(_task_curve(task, name, unit, part) for task, part in entry["per_task"].items())
    return (
        f"<h3>{escape(student)}: {escape(name)}</h3>"
        f'<div class="chart-and-text"><figure>{chart}</figure>{definitions(figures)}</div>'
        f"{_one_input(student, name, rows)}"
        f"<details><summary>Curves of {escape(name)} by task</summary>"
        f'<div class="charts">{small}</div></details>'
    )


def _task_curve(task: str, name: str, unit: str, part: Mapping[str, Any]) -> str:
    chart = curve_chart(part["curve"], name=name, unit=unit, title=task, reachable=part["reachable"], compact=True)
    said = (
        f"rank correlation {number(part['spearman_within_input'])}, error {number(part['error'])}, "
        f"range {number(part['range'])}"
    )
    return f'<figure>{chart}<p class="small muted">{said}</p></figure>'


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


def tasks_section(found: Mapping[str, Any]) -> str:
    """Return relevance and length of every system in every task."""
    tasks = list(dict.fromkeys(task for system in found["systems"].values() for task in system["per_task"]))
    table = table_of(
        "Tasks",
        ["System", *map(escape, tasks)],
        (
            row_of(escape(name), (_task_cell(system["per_task"].get(task)) for task in tasks), system["kind"])
            for name, system in found["systems"].items()
        ),
    )
    return (
        '<section id="tasks"><h2>Task by task</h2>'
        f"<p>Relevance with its 95 % interval, and mean length.</p>{table}</section>"
    )


def _task_cell(part: Mapping[str, Any] | None) -> str:
    if not part:
        return ABSENT
    words = below(f"{part['length']['mean']:.0f} words") if part["length"] else ""
    return _figure(part["relevance"]) + words


def how_section(found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return what was measured with, and the notes of this benchmark."""
    facts = definitions(
        [
            ("Suite", found["suite"]),
            ("Relevance by", f"{found['encoder']}, in float32"),
            ("Second encoder", found["second_encoder"] or "none"),
            ("Hardware", found["hardware"]),
            ("Seed", str(found["seed"])),
        ]
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in about["notes"])
    return (
        f'<section id="how"><h2>How it was measured</h2>{facts}<p class="small">{glossary.LIMITS}</p>'
        f'<ul class="small">{notes}</ul></section>'
    )


# -- parts of HTML --------------------------------------------------------------------------------------


def _figure(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    if not value or value["mean"] is None:
        return ABSENT
    low, high = value["ci95"]
    return f"{value['mean']:.{digits}f}{below(f'{low:.{digits}f}–{high:.{digits}f}')}"


def _diversity(value: Mapping[str, Any] | None) -> str:
    if not value:
        return ABSENT
    inside = value["within_input"]
    return f"{number(value['mean'])}{below(number(inside['mean']) if inside else ABSENT)}"


def _latency(value: Mapping[str, float] | None) -> str:
    if not value:
        return ABSENT
    digits = 1 if value["p50"] < 10 else 0
    middle, high = (f"{value[key]:.{digits}f} ms" for key in ("p50", "p95"))
    return f"{middle}{below(high)}"


def _size(parameters: int | None) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters else ABSENT
