"""The sections of the report with pictures of systems: parity with each reference, and what relevance costs.

``figures`` is summary.json throughout. A section with nothing in it is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from udrl.eval.benchmark_files import references_of
from udrl.eval.pages import glossary
from udrl.eval.pages.charts import Estimate, Point, forest_chart, scatter_chart
from udrl.eval.pages.tables import Cell, Row, Table, estimate, role_of
from udrl.eval.parity import PARITY

MAX_CHARTS = 12
"""Pictures by task against one reference: students first."""

NAMED = 10
"""Up to so many systems are named in a scatter plot; more are numbered, with a key below."""

Entries = Mapping[str, Mapping[str, Any]]
"""System -> its parity with one reference."""

_EXTRA = (
    ("At equal length", "length_controlled_win_rate", "length_controlled_win_rate_ci95"),
    ("Second encoder", "second", ""),
)


def parity_section(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each reference a forest plot, what speaks against each comparison, and parity by task."""
    parts = []
    for reference in references_of(figures):
        entries = {
            name: entry[reference]
            for name, entry in figures["parity"].items()
            if reference in entry and entry[reference]["ratio"] is not None
        }
        if entries:
            parts.append(_against(reference, entries, {name: figures["systems"][name]["kind"] for name in entries}))
    return parts


def _against(reference: str, entries: Entries, kinds: Mapping[str, str]) -> dict[str, Any]:
    title = f"Parity with {reference}"
    extra = [one for one in _EXTRA if any(entry.get(one[1]) is not None for entry in entries.values())]
    by_task, undrawn = _by_task(reference, entries, kinds)
    return {
        "reference": reference,
        "chart": _forest(title, reference, [(name, role_of(kinds[name]), entry) for name, entry in entries.items()]),
        "table": Table(
            title,
            ["System", "Ratio", "Wins", *(heading for heading, _, _ in extra), "Within 5\N{NO-BREAK SPACE}%"],
            [_row(name, entry, kinds[name], extra) for name, entry in entries.items()],
            prose="What speaks against it",
        ),
        "by_task": by_task,
        "undrawn": undrawn,
    }


def _row(name: str, part: Mapping[str, Any], kind: str, extra: Sequence[tuple[str, str, str]]) -> Row:
    cells: list[Cell | str] = [estimate(part, key="ratio"), estimate(part, key="win_rate", interval="win_rate_ci95")]
    for _, key, interval in extra:
        second = key == "second"
        cells.append(estimate(part.get(key), key="ratio") if second else estimate(part, key=key, interval=interval))
    return Row(name, [*cells, _within(part)], role_of(kind), "; ".join(part["caveats"]) or "nothing found")


def _within(part: Mapping[str, Any]) -> str:
    if part["within_5_percent"]:
        return "yes"
    return "not shown" if part["ci95"][1] >= PARITY else "no"


def _by_task(reference: str, entries: Entries, kinds: Mapping[str, str]) -> tuple[list[tuple[str, Markup]], int]:
    """Return a picture a system, baselines left out: in which tasks it keeps up; and how many have none."""
    order = [name for name in entries if kinds[name] == "student"]
    order += [name for name in entries if kinds[name] not in ("student", "baseline")]
    pictures = []
    for name in order[:MAX_CHARTS]:
        parts = entries[name]["per_task"]
        rows = [(task, role_of(kinds[name]), part) for task, part in parts.items() if part["ratio"] is not None]
        if len(rows) > 1:
            pictures.append((name, _forest(f"{name}: parity with {reference} by task", reference, rows)))
    return pictures, max(0, len(order) - MAX_CHARTS)


def _forest(title: str, reference: str, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Markup:
    return forest_chart(
        [Estimate(label, entry["ratio"], entry["ci95"][0], entry["ci95"][1], colour) for label, colour, entry in rows],
        title=title,
        axis=f"relevance as a share of {reference if len(reference) <= 24 else reference[:23] + '…'}'s",
        line=1.0,
        bound=PARITY,
        zone=(PARITY, None),
    )


def pictures_section(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return relevance against diversity, latency and size: what the quality of each system costs."""
    systems = figures["systems"]
    numbered = len(systems) > NAMED
    labels = {name: str(n) if numbered else name for n, name in enumerate(systems, start=1)}

    def points(value: Callable[[Mapping[str, Any]], float | None], *, baselines: bool) -> list[Point]:
        chosen = []
        for name, system in systems.items():
            x, y = value(system), system["relevance"]
            if x is not None and y and (baselines or system["kind"] != "baseline"):
                low, high = y["ci95"]
                chosen.append(Point(labels[name], name, x, y["mean"], low, high, role_of(system["kind"])))
        return chosen

    wanted = (
        ("Diversity and relevance", "distinct-2", _diversity, glossary.DIVERSITY, True),
        ("Latency and relevance", "milliseconds for one request (median)", _latency, glossary.LATENCY, False),
        ("Size and relevance", "million parameters", _millions, glossary.SIZE, False),
    )
    pictures = []
    for title, axis, value, caption, linear in wanted:
        drawn = points(value, baselines=linear)
        # One point is no comparison.
        if len({(point.x, point.y) for point in drawn}) > 1:
            chart = scatter_chart(drawn, title=title, x=axis, y="relevance", log=not linear, frontier=not linear)
            pictures.append((chart, caption))
    if not pictures:
        return None
    names = {"student": "students", "reference": "teachers, references and recorded systems", "baseline": "baselines"}
    roles = dict.fromkeys(role_of(system["kind"]) for system in systems.values())
    return {
        "legend": [(role, names[role]) for role in roles],
        "pictures": pictures,
        "key": list(systems) if numbered else [],
    }


def _diversity(system: Mapping[str, Any]) -> float | None:
    return system["distinct_2"]["mean"] if system["distinct_2"] else None


def _latency(system: Mapping[str, Any]) -> float | None:
    return system["latency_ms"]["p50"] if system["latency_ms"] else None


def _millions(system: Mapping[str, Any]) -> float | None:
    return system["parameters"] / 1e6 if system["parameters"] else None
