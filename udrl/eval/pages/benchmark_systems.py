"""The sections of the report with tables: systems, tasks, judge, and how it was measured.

Every function returns HTML in which each text from outside (names, inputs, completions, notes) is escaped. A figure
that summary.json does not hold is left out, so that a report can be made of older ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from udrl.eval.benchmark_files import references_of
from udrl.eval.pages import glossary
from udrl.eval.pages.markup import ABSENT, below, definitions, estimate, number, percent, row_of, table_of

Columns = Sequence[tuple[str, str, str]]


def systems_section(found: Mapping[str, Any]) -> str:
    """Return the tables of all systems with the meaning of every column and system."""
    references = references_of(found)
    leading = references[0] if references else None
    systems = found["systems"]
    against = f" Anchored and Agreement are against {escape(leading)}." if leading else ""
    rewards = list(dict.fromkeys(name for system in systems.values() for name in system.get("rewards") or {}))
    quality: Columns = [
        *glossary.QUALITY,
        *((f"reward {name}", escape(name), f"The reward {name}.") for name in rewards),
    ]
    rows = definitions(((name, _meaning(name, system)) for name, system in systems.items()), columns=True)
    meanings = definitions(
        ((heading, meaning) for _, heading, meaning in (*glossary.QUALITY, *glossary.COST)), columns=True
    )
    return f"""<section id="systems"><h2>Systems side by side</h2>
<p>Every system answered the same inputs. Small figures under a value are its 95 % interval.{against}</p>
{_systems_table("What they write", quality, {n: _written(s, leading, rewards) for n, s in systems.items()}, systems)}
<h3>What they take</h3>
{_systems_table("What they take", glossary.COST, {n: _taken(s) for n, s in systems.items()}, systems)}
<details><summary>What the columns mean</summary>{meanings}</details>
<details><summary>What the systems are</summary>{rows}</details>
</section>"""


def _systems_table(
    label: str, columns: Columns, cells: Mapping[str, Mapping[str, str]], systems: Mapping[str, Any]
) -> str:
    """A table of systems; a column that holds nothing is left out."""
    kept = [(key, heading) for key, heading, _ in columns if any(own[key] != ABSENT for own in cells.values())]
    rows = (row_of(_head(name, systems[name]), (own[key] for key, _ in kept), systems[name]["kind"])
            for name, own in cells.items())  # fmt: skip
    return table_of(label, ["System", *(heading for _, heading in kept)], rows)


def _head(name: str, system: Mapping[str, Any]) -> str:
    kind, by = system["kind"], system["engine"]
    known = (kind, None if by == f"{kind}: {name}" else by, system["precision"])
    engine = [str(part) for part in known if part is not None]
    return f'{escape(name)}<span class="kind">{escape(", ".join(engine))}</span>'


def _meaning(name: str, system: Mapping[str, Any]) -> str:
    for part, text in glossary.SYSTEMS:
        if name == part or (part.startswith("@") and part in name):
            return text
    if system["kind"] == "recorded":
        return "recorded outputs: written before and elsewhere, matched by input"
    return f"a {system['kind']}, writing with care; several completions an input"


def _written(system: Mapping[str, Any], ref: str | None, rewards: Sequence[str]) -> dict[str, str]:
    return {
        "relevance": estimate(system["relevance"]),
        "anchored": estimate(system["anchored_relevance"].get(ref)),
        "agreement": estimate(system["agreement"].get(ref)),
        "relevance_second": estimate(system["relevance_second"]),
        "length": estimate(system["length"], 1),
        "copy_rate": estimate(system["copy_rate"]),
        "novelty": estimate(system["novelty"]),
        "distinct_2": _diversity(system["distinct_2"]),
        "pairwise_distance": _diversity(system["pairwise_distance"]),
        **{f"reward {name}": estimate((system.get("rewards") or {}).get(name)) for name in rewards},
    }


def _taken(system: Mapping[str, Any]) -> dict[str, str]:
    cut, batch, cost = system.get("unfinished"), system.get("batch_size"), system.get("cost_per_1000")
    ends = percent(system["stop_rate"])
    speed = number(system["tokens_per_second"], 0)
    return {
        "parameters": size(system["parameters"]),
        "latency": _latency(system["latency_ms"]),
        "tokens_per_second": speed + below(f"{batch} together") if batch and speed != ABSENT else speed,
        "cost": f"{cost['usd']:.2g}{below(escape(cost['basis']))}" if cost else ABSENT,
        "answered": percent(system["coverage"]),
        "failed": f"{system['failed']:,}",
        "ends": ends + below(f"{cut:,} cut") if cut and ends != ABSENT else ends,
        "truncated": f"{system['truncated']:,}",
    }


def judge_section(found: Mapping[str, Any]) -> str:
    """Return what an LLM judge preferred, and how far it agrees with itself."""
    judge = found.get("judge")
    if not judge:
        return ""
    keys = (
        ("win_rate", "Wins"),
        ("length_controlled_win_rate", "Wins at equal length"),
        ("consistency", "Consistent"),
        ("agreement", "Agrees"),
    )
    rows = []
    for name, entries in judge["systems"].items():
        for ref, entry in entries.items():
            kind = found["systems"].get(name, {}).get("kind", "recorded")
            cells = [estimate(entry, key=key, interval=f"{key}_ci95") for key, _ in keys]
            cells += [number(entry.get("first_position")), percent(entry.get("ties")), f"{entry['items']:,}"]
            rows.append(row_of(f'{escape(name)}<span class="kind">against {escape(ref)}</span>', cells, kind))
    head = ["System", *(heading for _, heading in keys), "First", "Ties", "Inputs"]
    named = judge["name"] if judge["name"] == judge.get("model") else f"{judge['name']} ({judge.get('model')})"
    said = escape(glossary.JUDGE.replace("{name}", named))
    return f'<section id="judge"><h2>What a judge says</h2><p>{said}</p>{table_of("Judge", head, rows)}</section>'


def tasks_section(found: Mapping[str, Any]) -> str:
    """Return relevance, length, copy rate and diversity of every system in every task."""
    tasks = list(dict.fromkeys(task for system in found["systems"].values() for task in system["per_task"]))
    if len(tasks) < 2:
        return ""
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
        "<p>Relevance with its 95 % interval; then the mean length, how much is copied, and distinct-2.</p>"
        f"{table}</section>"
    )


def _task_cell(part: Mapping[str, Any] | None) -> str:
    if not part:
        return ABSENT
    facts = [f"{part['length']['mean']:.0f} words"] if part["length"] else []
    facts += [f"copies {percent(part['copy_rate']['mean'])}"] if part["copy_rate"] else []
    facts += [f"distinct {number(part['distinct_2']['mean'])}"] if part["distinct_2"] else []
    return estimate(part["relevance"]) + "".join(map(below, facts))


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


def size(parameters: int | None) -> str:
    """A number of parameters, in millions or billions."""
    if not parameters:
        return ABSENT
    return (
        f"{parameters / 1e9:,.1f}\N{NO-BREAK SPACE}B"
        if parameters >= 1e9
        else f"{parameters / 1e6:,.1f}\N{NO-BREAK SPACE}M"
    )


def _diversity(value: Mapping[str, Any] | None) -> str:
    if not value or value["mean"] is None:
        return ABSENT
    inside = value["within_input"]
    return f"{number(value['mean'])}{below(number(inside['mean']) if inside else ABSENT)}"


def _latency(value: Mapping[str, float] | None) -> str:
    if not value:
        return ABSENT
    digits = 1 if value["p50"] < 10 else 0
    middle, high = (f"{value[key]:,.{digits}f} ms" for key in ("p50", "p95"))
    return f"{middle}{below(high)}"
