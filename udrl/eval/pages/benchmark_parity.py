"""The sections of the report with pictures of systems: parity with each reference, and what relevance costs.

Every function returns HTML in which each text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from udrl.eval.benchmark_files import references_of
from udrl.eval.pages import glossary
from udrl.eval.pages.charts import Estimate, Point, forest_chart, scatter_chart
from udrl.eval.pages.markup import estimate, legend, role, row_of, table_of
from udrl.eval.parity import PARITY

MAX_CHARTS = 12
"""Pictures by task against one reference: students first."""

NAMED = 10
"""Up to so many systems are named in a scatter plot; more are numbered, with a key below."""


def parity_section(found: Mapping[str, Any]) -> str:
    """Return a forest plot against each reference, what speaks against each comparison, and parity by task."""
    parts = []
    for ref in references_of(found):
        entries = {name: entry[ref] for name, entry in found["parity"].items() if ref in entry}
        entries = {name: entry for name, entry in entries.items() if entry["ratio"] is not None}
        if entries:
            parts.append(_against(ref, entries, {name: found["systems"][name]["kind"] for name in entries}))
    if not parts:
        return ""
    return (
        '<section id="parity"><h2>Parity with the references</h2>'
        f"<p>{glossary.PARITY} {glossary.NOT_SHOWN}</p>{''.join(parts)}"
        f'<p class="small muted">{glossary.WINS}</p></section>'
    )


def _against(ref: str, entries: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]) -> str:
    chart = _forest(f"Parity with {ref}", ref, [(name, role(kinds[name]), entry) for name, entry in entries.items()])
    extra = [
        (heading, key, interval)
        for heading, key, interval in (
            ("At equal length", "length_controlled_win_rate", "length_controlled_win_rate_ci95"),
            ("Second encoder", "second", ""),
        )
        if any(entry.get(key) is not None for entry in entries.values())
    ]
    table = table_of(
        f"Parity with {ref}",
        [
            "System",
            "Ratio",
            "Wins",
            *(heading for heading, _, _ in extra),
            "Within 5\N{NO-BREAK SPACE}%",
            "What speaks against it",
        ],
        (_row(name, entry, kinds[name], extra) for name, entry in entries.items()),
    )
    heading = f"<h3>Against {escape(ref)}</h3>"
    return f'{heading}<div class="chart-and-text"><figure>{chart}</figure>{table}</div>{_by_task(ref, entries, kinds)}'


def _row(name: str, part: Mapping[str, Any], kind: str, extra: Sequence[tuple[str, str, str]]) -> str:
    cells = [estimate(part, key="ratio"), estimate(part, key="win_rate", interval="win_rate_ci95")]
    for _, key, interval in extra:
        cells.append(
            estimate(part.get(key), key="ratio") if key == "second" else estimate(part, key=key, interval=interval)
        )
    caveats = "; ".join(part["caveats"]) or "nothing found"
    return row_of(escape(name), (*cells, _within(part)), kind, text=caveats)


def _within(part: Mapping[str, Any]) -> str:
    if part["within_5_percent"]:
        return "yes"
    return "not shown" if part["ci95"][1] >= PARITY else "no"


def _by_task(ref: str, entries: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, str]) -> str:
    """One picture a system, baselines left out: in which tasks it keeps up."""
    order = [name for name in entries if kinds[name] == "student"]
    order += [name for name in entries if kinds[name] not in ("student", "baseline")]
    pictures = []
    for name in order[:MAX_CHARTS]:
        rows = [
            (task, role(kinds[name]), part)
            for task, part in entries[name]["per_task"].items()
            if part["ratio"] is not None
        ]
        if len(rows) > 1:
            chart = _forest(f"{name}: parity with {ref} by task", ref, rows)
            pictures.append(f"<figure><figcaption>{escape(name)}</figcaption>{chart}</figure>")
    if not pictures:
        return ""
    left = len(order) - MAX_CHARTS
    note = f'<p class="small muted">{left} more systems have no picture; summary.json has their figures.</p>'
    return (
        f"<details><summary>Parity with {escape(ref)} by task</summary>"
        f'<div class="charts">{"".join(pictures)}</div>{note if left > 0 else ""}</details>'
    )


def _forest(title: str, ref: str, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    return forest_chart(
        [Estimate(label, entry["ratio"], entry["ci95"][0], entry["ci95"][1], colour) for label, colour, entry in rows],
        title=title,
        axis=f"relevance as a share of {_shortened(ref)}'s",
        line=1.0,
        bound=PARITY,
        zone=(PARITY, None),
    )


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def pictures_section(found: Mapping[str, Any]) -> str:
    """Return relevance against diversity, latency and size: what the quality of each system costs."""
    systems = found["systems"]
    numbered = len(systems) > NAMED
    labels = {name: str(n) if numbered else name for n, name in enumerate(systems, start=1)}

    def points(value: Callable[[Mapping[str, Any]], float | None], *, baselines: bool) -> list[Point]:
        chosen = []
        for name, system in systems.items():
            x, y = value(system), system["relevance"]
            if x is not None and y and (baselines or system["kind"] != "baseline"):
                low, high = y["ci95"]
                chosen.append(Point(labels[name], name, x, y["mean"], low, high, role(system["kind"])))
        return chosen

    wanted = (
        ("Diversity and relevance", "distinct-2", _diversity, glossary.DIVERSITY, True),
        ("Latency and relevance", "milliseconds for one request (median)", _latency, glossary.LATENCY, False),
        ("Size and relevance", "million parameters", _millions, glossary.SIZE, False),
    )
    pictures = []
    for title, axis, value, said, linear in wanted:
        drawn = points(value, baselines=linear)
        # One point is no comparison.
        if len({(point.x, point.y) for point in drawn}) > 1:
            chart = scatter_chart(drawn, title=title, x=axis, y="relevance", log=not linear, frontier=not linear)
            pictures.append(f"<figure>{chart}<figcaption>{said}</figcaption></figure>")
    if not pictures:
        return ""
    kinds = dict.fromkeys(role(system["kind"]) for system in systems.values())
    names = {"student": "students", "reference": "teachers, references and recorded systems", "baseline": "baselines"}
    key = "".join(f"<li>{escape(name)}</li>" for name in systems)
    return (
        '<section id="pictures"><h2>Quality and what it costs</h2>'
        "<p>Each dot is a system, the line through it the 95 % interval of its relevance.</p>"
        f'{legend((kind, names[kind]) for kind in kinds)}<div class="charts">{"".join(pictures)}</div>'
        f"{f'<ol class=key>{key}</ol>' if numbered else ''}</section>"
    )


def _diversity(system: Mapping[str, Any]) -> float | None:
    return system["distinct_2"]["mean"] if system["distinct_2"] else None


def _latency(system: Mapping[str, Any]) -> float | None:
    return system["latency_ms"]["p50"] if system["latency_ms"] else None


def _millions(system: Mapping[str, Any]) -> float | None:
    return system["parameters"] / 1e6 if system["parameters"] else None
