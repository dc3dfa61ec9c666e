"""The sections of the report with tables: systems, tasks, judge, and how it was measured.

A figure that summary.json (``figures`` throughout) does not hold is left out, so that a report can be made of older
ones too. A section with nothing in it is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from udrl.eval.benchmark_files import references_of
from udrl.eval.pages import glossary
from udrl.eval.pages.tables import NONE, Cell, Row, Table, estimate, number, percent, role_of, size

Columns = Sequence[tuple[str, str, str]]


def systems_section(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of all systems with the meaning of every column and system."""
    leading = next(iter(references_of(figures)), None)
    systems = figures["systems"]
    rewards = list(dict.fromkeys(name for system in systems.values() for name in system.get("rewards") or {}))
    quality = [*glossary.QUALITY, *((f"reward {name}", name, f"The reward {name}.") for name in rewards)]
    written = {name: _written(system, leading, rewards) for name, system in systems.items()}
    taken = {name: _taken(system) for name, system in systems.items()}
    return {
        "leading": leading,
        "written": _systems_table("What they write", quality, written, systems),
        "taken": _systems_table("What they take", glossary.COST, taken, systems),
        "columns": [(heading, meaning) for _, heading, meaning in (*glossary.QUALITY, *glossary.COST)],
        "meanings": [(name, _meaning(name, system)) for name, system in systems.items()],
    }


def _systems_table(
    label: str, columns: Columns, cells: Mapping[str, Mapping[str, Cell]], systems: Mapping[str, Any]
) -> Table:
    """A table of systems; a column that holds nothing is left out."""
    kept = [(key, heading) for key, heading, _ in columns if any(row[key] != NONE for row in cells.values())]
    rows = [
        Row(_head(name, systems[name]), [row[key] for key, _ in kept], role_of(systems[name]["kind"]))
        for name, row in cells.items()
    ]
    return Table(label, ["System", *(heading for _, heading in kept)], rows)


def _head(name: str, system: Mapping[str, Any]) -> Cell:
    kind, engine = system["kind"], system["engine"]
    known = (kind, None if engine == f"{kind}: {name}" else engine, system["precision"])
    return Cell(name, (", ".join(str(part) for part in known if part is not None),))


def _meaning(name: str, system: Mapping[str, Any]) -> str:
    for part, text in glossary.SYSTEMS:
        if name == part or (part.startswith("@") and part in name):
            return text
    if system["kind"] == "recorded":
        return "recorded outputs: written before and elsewhere, matched by input"
    return f"a {system['kind']}, writing with care; several completions an input"


def _written(system: Mapping[str, Any], reference: str | None, rewards: Sequence[str]) -> dict[str, Cell]:
    return {
        "relevance": estimate(system["relevance"]),
        "anchored": estimate(system["anchored_relevance"].get(reference)),
        "agreement": estimate(system["agreement"].get(reference)),
        "relevance_second": estimate(system["relevance_second"]),
        "length": estimate(system["length"], 1),
        "copy_rate": estimate(system["copy_rate"]),
        "novelty": estimate(system["novelty"]),
        "distinct_2": _diversity(system["distinct_2"]),
        "pairwise_distance": _diversity(system["pairwise_distance"]),
        **{f"reward {name}": estimate((system.get("rewards") or {}).get(name)) for name in rewards},
    }


def _taken(system: Mapping[str, Any]) -> dict[str, Cell]:
    cut, batch, cost = system.get("unfinished"), system.get("batch_size"), system.get("cost_per_1000")
    return {
        "parameters": Cell(size(system["parameters"])),
        "latency": _latency(system["latency_ms"]),
        "tokens_per_second": _with(number(system["tokens_per_second"], 0), f"{batch} together" if batch else ""),
        "cost": Cell(f"{cost['usd']:.2g}", (cost["basis"],)) if cost else NONE,
        "answered": Cell(percent(system["coverage"])),
        "failed": Cell(f"{system['failed']:,}"),
        "ends": _with(percent(system["stop_rate"]), f"{cut:,} cut" if cut else ""),
        "truncated": Cell(f"{system['truncated']:,}"),
    }


def _with(text: str, below: str) -> Cell:
    """A figure with what is to be said of it; where there is no figure, nothing is."""
    return Cell(text, (below,) if below and text != NONE.text else ())


def _diversity(value: Mapping[str, Any] | None) -> Cell:
    if not value or value["mean"] is None:
        return NONE
    inside = value["within_input"]
    return Cell(number(value["mean"]), (number(inside["mean"] if inside else None),))


def _latency(value: Mapping[str, float] | None) -> Cell:
    if not value:
        return NONE
    digits = 1 if value["p50"] < 10 else 0
    return Cell(f"{value['p50']:,.{digits}f} ms", (f"{value['p95']:,.{digits}f} ms",))


def judge_section(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an LLM judge preferred, and how far it agrees with itself."""
    judge = figures.get("judge")
    if not judge:
        return None
    columns = {
        "win_rate": "Wins",
        "length_controlled_win_rate": "Wins at equal length",
        "consistency": "Consistent",
        "agreement": "Agrees",
    }
    rows = []
    for name, entries in judge["systems"].items():
        kind = figures["systems"].get(name, {}).get("kind", "recorded")
        for reference, entry in entries.items():
            cells: list[Cell | str] = [estimate(entry, key=key, interval=f"{key}_ci95") for key in columns]
            cells += [number(entry.get("first_position")), percent(entry.get("ties")), f"{entry['items']:,}"]
            rows.append(Row(Cell(name, (f"against {reference}",)), cells, role_of(kind)))
    model = judge.get("model")
    return {
        "name": judge["name"] if judge["name"] == model else f"{judge['name']} ({model})",
        "table": Table("Judge", ["System", *columns.values(), "First", "Ties", "Inputs"], rows),
    }


def votes_section(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what people preferred, beside relevance, and the order that follows from it."""
    votes = figures.get("votes")
    if not votes:
        return None
    columns = {"win_rate": "Wins", "relevance_win_rate": "Wins by relevance", "agreement": "Agrees"}

    def row(name: str, below: tuple[str, ...], cells: list[Cell | str]) -> Row:
        kind = figures["systems"].get(name, {}).get("kind", "recorded")
        return Row(Cell(name, below), cells, role_of(kind))

    rows = []
    for name, entries in votes["systems"].items():
        for other, entry in entries.items():
            cells: list[Cell | str] = [estimate(entry, key=key, interval=f"{key}_ci95") for key in columns]
            cells += [percent(entry["ties"]), f"{entry['inputs']:,}", f"{entry['votes']:,}"]
            rows.append(row(name, (f"against {other}",), cells))
    order = None
    if votes["order"]:
        ranked = [
            row(
                one["system"],
                (),
                [estimate(one, key="strength"), _relevance(figures, one["system"]), f"{one['votes']:,}"],
            )
            for one in votes["order"]
        ]
        order = Table("Order by votes", ["System", "Strength", "Relevance", "Votes"], ranked)
    return {
        "voters": "1 person" if votes["voters"] == 1 else f"{votes['voters']:,} people",
        "table": Table("Votes", ["System", *columns.values(), "Ties", "Inputs", "Votes"], rows),
        "order": order,
        "outdated": votes["outdated"],
    }


def _relevance(figures: Mapping[str, Any], name: str) -> Cell:
    return estimate(figures["systems"].get(name, {}).get("relevance"))


def tasks_section(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return relevance, length, copy rate and diversity of every system in every task, of several."""
    systems = figures["systems"]
    tasks = list(dict.fromkeys(task for system in systems.values() for task in system["per_task"]))
    if len(tasks) < 2:
        return None
    rows = [
        Row(name, [_task_cell(system["per_task"].get(task)) for task in tasks], role_of(system["kind"]))
        for name, system in systems.items()
    ]
    return {"table": Table("Tasks", ["System", *tasks], rows)}


def _task_cell(part: Mapping[str, Any] | None) -> Cell:
    if not part:
        return NONE
    relevance = estimate(part["relevance"])
    facts = [f"{part['length']['mean']:.0f} words"] if part["length"] else []
    facts += [f"copies {percent(part['copy_rate']['mean'])}"] if part["copy_rate"] else []
    facts += [f"distinct {number(part['distinct_2']['mean'])}"] if part["distinct_2"] else []
    return Cell(relevance.text, (*relevance.below, *facts))


def how_section(figures: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured with, and the notes of this benchmark."""
    facts = {
        "Suite": figures["suite"],
        "Relevance by": f"{figures['encoder']}, in float32",
        "Second encoder": figures["second_encoder"] or "none",
        "Hardware": figures["hardware"],
        "Seed": figures["seed"],
    }
    return {"facts": list(facts.items()), "notes": about["notes"]}
