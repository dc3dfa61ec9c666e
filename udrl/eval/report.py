"""``report.html``: one self-contained page from the files of a benchmark, readable by a newcomer.

It works offline, escapes every text (and a content security policy lets no other script than its own run),
follows the reader's light or dark setting, and fits a phone. The page is made from the files alone, so that
``udrl report`` can make it again at any time.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from udrl import __version__
from udrl.data.run import Run, atomic_write
from udrl.errors import RunError
from udrl.eval import records, scores, summary
from udrl.eval.markup import filled, page_file, role
from udrl.eval.sections import (
    commands_section,
    how_section,
    parity_section,
    systems_section,
    tasks_section,
)
from udrl.eval.verdict import headline_systems, verdicts

FILE = "report.html"
MAX_EXAMPLES = 300
"""Inputs in the examples browser; a larger suite is sampled evenly over its tasks, and the page says so."""


def report(folder: Path) -> Path:
    """Write ``report.html`` beside the files of the benchmark in ``folder`` and return its path.

    Raises RunError where one of the files is missing, damaged or of another schema.
    """
    found = summary.read_summary(folder)
    table, about = _read(folder / records.FILE)
    scored, _ = _read(folder / scores.FILE)
    if table.num_rows != scored.num_rows:
        raise RunError(f"{folder}: {records.FILE} and {scores.FILE} do not belong together: run udrl bench again")
    rows = [{**score, **row} for row, score in zip(table.to_pylist(), scored.to_pylist(), strict=True)]
    path = folder / FILE
    atomic_write(path, render(found, rows, about))
    return path


def reports(run: Run | Path | str) -> list[Path]:
    """Write the reports of all benchmarks of the run again and return their paths; raises RunError as ``report``."""
    run = run if isinstance(run, Run) else Run(run)
    run.check()
    folders = sorted(path.parent for path in (run.path / "bench").glob(f"*/{summary.FILE}"))
    if not folders:
        raise RunError(f"{run.path} holds no benchmark: run 'udrl bench --run {run.path}', or look at --episodes")
    return [report(folder) for folder in folders]


def render(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """Return the page.

    found: summary.json; rows: completions with their scores (columns of both Parquet files); about: title,
    description and notes of the benchmark.
    """
    script = page_file("report.js")
    examples, total = _examples(found, rows)
    references = list(headline_systems(found))
    order = [*(n for n, s in found["systems"].items() if s["kind"] == "student"), *found["systems"]]
    data = {"examples": examples, "systems": list(dict.fromkeys(order))}
    note = f"Agreement is the similarity to {references[0]}'s completion." if references else ""
    if total > len(examples):
        note += f" {len(examples)} of {total} inputs are shown, evenly over the tasks."
    parts = {
        "style": page_file("page.css"),
        "title": escape(str(about["title"])),
        "description": escape(str(about["description"])),
        "verdict": _verdict_list(found),
        "systems": systems_section(found),
        "parity": parity_section(found),
        "commands": commands_section(found, rows),
        "tasks": tasks_section(found),
        "examples_note": escape(note),
        "how": how_section(found, about),
        "version": escape(__version__),
        "data": _script_json(data),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return filled("report.html", parts)


def _verdict_list(found: Mapping[str, Any]) -> str:
    lines = []
    for verdict in verdicts(found):
        kind = {True: "yes", False: "no", None: "open"}[verdict.passed]
        against = ""
        if verdict.against:
            points = "".join(f"<li>{escape(point)}</li>" for point in verdict.against)
            lead = "What speaks against it:" if verdict.passed else "Keep in mind:"
            against = f'<p class="against">{lead}</p><ul class="small">{points}</ul>'
        detail = f'<p class="small">{escape(verdict.detail)}</p>' if verdict.detail else ""
        lines.append(f'<li class="{kind}"><strong>{escape(verdict.sentence)}</strong>{detail}{against}</li>')
    return "\n".join(lines).replace(" %", "\N{NO-BREAK SPACE}%")


def _examples(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the examples (the first completion of every system) and how many inputs there are in all."""
    references = list(headline_systems(found))
    by_item: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["part"] == "comparison" and row["sample"] == 0:
            item = by_item.setdefault(
                (row["task"], row["input_id"]), {"task": row["task"], "input": row["input"], "answers": []}
            )
            item["answers"].append(_answer(row, found, references))
    order = list(found["systems"])
    for item in by_item.values():
        item["answers"].sort(key=lambda answer: order.index(answer["system"]))
    items = list(by_item.values())
    if len(items) <= MAX_EXAMPLES:
        return items, len(items)
    chosen = []
    tasks = list(dict.fromkeys(item["task"] for item in items))
    for task in tasks:
        chosen += [item for item in items if item["task"] == task][: MAX_EXAMPLES // len(tasks)]
    return chosen, len(items)


def _answer(row: Mapping[str, Any], found: Mapping[str, Any], references: Sequence[str]) -> dict[str, Any]:
    targets = json.loads(row["targets"])
    agreement = (row.get("agreement") or {}).get(references[0]) if references else None
    return {
        "system": row["system"],
        "role": role(found["systems"][row["system"]]["kind"]),
        "completion": row["completion"],
        "error": row["error"],
        "relevance": _rounded(row["relevance"]),
        "copy_rate": _rounded(row["copy_rate"]),
        "agreement": _rounded(agreement),
        "length": None if row["length"] is None else round(row["length"]),
        "targets": ", ".join(f"{name} {value:.3g}" for name, value in targets.items()),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _script_json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element or open a comment in it, and holds no line separators."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    if not path.exists():
        raise RunError(f"there is no {path}: run udrl bench first")
    return records.read_table(path)
