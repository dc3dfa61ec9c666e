"""From scores to ``summary.json``: every figure of a benchmark with its interval, in the schema that
programs read.

The unit is the item: one input of one task. A system's figure for an item is the mean over its completions;
means are over items, and every 95 % interval is a bootstrap clustered by input, paired where two systems
are compared.

Beyond the names of docs/benchmark.md:

- ``n`` counts scored completions, ``coverage`` is the share of items with at least one, ``failed`` counts
  requests without a completion, ``truncated`` completions of which the encoder saw only the start.
- ``distinct_2`` and ``pairwise_distance``: ``mean`` and ``ci95`` are within task (between completions for
  different inputs, in groups of GROUP so that they do not depend on how many inputs there are);
  ``within_input`` is between completions of one input, null where a system writes one.
- ``agreement`` of a reference with itself is between its own different completions: the ceiling.
- ``within_5_percent`` is true where the whole interval of the ratio lies above 0.95, not just its middle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from udrl import metrics
from udrl.data.hashing import hash_int
from udrl.data.run import atomic_write
from udrl.errors import RunError
from udrl.eval.parity import Item, PerItem, parity_of
from udrl.eval.records import SystemFacts
from udrl.eval.scores import Floats, Scores

SCHEMA = 1
FILE = "summary.json"
GROUP = 10
"""Completions for different inputs among which diversity within a task is measured."""
SHUFFLED = "shuffled"
_PLAIN = ("relevance", "relevance_second", "copy_rate", "novelty", "length")


@dataclass(frozen=True)
class System:
    """One system's figures by item, aligned with the list of items (NaN: nothing scored there).

    per_item: name -> (items,), agreement and within-input diversity among them as ``agreement/REF``,
    ``distinct_2`` and ``pairwise_distance``; groups: name -> (group values, their task) for diversity
    within tasks.
    """

    facts: SystemFacts
    per_item: PerItem
    groups: Mapping[str, list[tuple[str, int, float]]]
    rows: tuple[int, ...]


def build_summary(
    scores: Scores,
    facts: Sequence[SystemFacts],
    *,
    references: Sequence[str],
    about: Mapping[str, Any],
    command_following: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the whole of ``summary.json``.

    facts: the systems, in the order of the table; references: names of those that the others are compared
    with; about: suite, encoder, second_encoder, hardware and seed; command_following: student -> attribute
    -> figures.
    """
    items = list(dict.fromkeys((row.task, row.input_id) for row in scores.rows if row.part == "comparison"))
    systems = {fact.name: _system(scores, fact, items, references) for fact in facts}
    tasks = list(dict.fromkeys(task for task, _ in items))
    refs = [name for name in references if name in systems]
    table = {}
    for name, system in systems.items():
        entry = _entry(scores, system, systems, items, refs, None)
        entry["per_task"] = {task: _entry(scores, system, systems, items, refs, task) for task in tasks}
        table[name] = entry
    per_item = {name: system.per_item for name, system in systems.items()}
    parity = {
        name: {ref: parity_of(name, ref, per_item, items, table) for ref in refs if ref != name} for name in systems
    }
    return {
        "schema": SCHEMA,
        **{key: about[key] for key in ("suite", "encoder", "second_encoder", "hardware", "seed")},
        "systems": table,
        "parity": {name: entry for name, entry in parity.items() if entry},
        "command_following": dict(command_following),
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write ``summary.json`` into ``folder``, atomically; a figure that cannot be computed is null, never
    NaN.
    """
    path = folder / FILE
    atomic_write(path, json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json`` of the benchmark in ``folder``; raises RunError where there is none, or a newer
    one.
    """
    path = folder / FILE
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"there is no {path}: run udrl bench first") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): run udrl bench again") from None
    if summary.get("schema") != SCHEMA:
        raise RunError(f"{path} has schema {summary.get('schema')}, this version reads {SCHEMA}: run udrl bench again")
    return summary


# -- one system -----------------------------------------------------------------------------------------


def _system(scores: Scores, facts: SystemFacts, items: Sequence[Item], references: Sequence[str]) -> System:
    rows = [i for i, row in enumerate(scores.rows) if row.part == "comparison" and row.system == facts.name]
    place = {item: n for n, item in enumerate(items)}
    of_item: dict[int, list[int]] = {}
    for i in rows:
        if scores.rows[i].completion is not None:
            of_item.setdefault(place[scores.rows[i].task, scores.rows[i].input_id], []).append(i)
    columns = {name: scores.columns[name] for name in _PLAIN}
    columns |= {f"agreement/{ref}": scores.agreement[ref] for ref in references if ref in scores.agreement}
    per_item = {name: np.full(len(items), np.nan) for name in (*columns, "distinct_2", "pairwise_distance")}
    for n, own in of_item.items():
        for name, values in columns.items():
            per_item[name][n] = _mean_known(values[own])
        if len(own) > 1:
            per_item["distinct_2"][n] = metrics.distinct_n([scores.rows[i].completion or "" for i in own], 2)
            per_item["pairwise_distance"][n] = metrics.pairwise_distance(scores.vectors[own])
    return System(facts, per_item, _groups(scores, items, of_item), tuple(rows))


def _groups(
    scores: Scores, items: Sequence[Item], of_item: Mapping[int, Sequence[int]]
) -> dict[str, list[tuple[str, int, float]]]:
    """Diversity within tasks: items in a fixed random order, cut into groups of GROUP, one completion an
    item.

    Returns for each figure (task, number of the group, value); each group is measured once a sample.
    """
    found: dict[str, list[tuple[str, int, float]]] = {"distinct_2": [], "pairwise_distance": []}
    number = 0
    for task in dict.fromkeys(task for task, _ in items):
        own = [n for n, item in enumerate(items) if item[0] == task and n in of_item]
        own.sort(key=lambda n: hash_int("group", *items[n]))
        size = min(GROUP, len(own))
        for start in range(0, len(own) - size + 1, size) if size > 1 else ():
            number += 1
            members = [of_item[n] for n in own[start : start + size]]
            for sample in range(max(map(len, members))):
                chosen = [rows[sample % len(rows)] for rows in members]
                texts = [scores.rows[i].completion or "" for i in chosen]
                found["distinct_2"].append((task, number, metrics.distinct_n(texts, 2)))
                distance = metrics.pairwise_distance(scores.vectors[chosen])
                found["pairwise_distance"].append((task, number, distance))
    return found


def _entry(
    scores: Scores,
    system: System,
    systems: Mapping[str, System],
    items: Sequence[Item],
    references: Sequence[str],
    task: str | None,
) -> dict[str, Any]:
    """The figures of one system over all tasks (None) or one."""
    chosen = np.array([task is None or item[0] == task for item in items])
    clusters = np.array([item[1] for item in items])
    rows = [i for i in system.rows if task is None or scores.rows[i].task == task]
    answered = [i for i in rows if scores.rows[i].completion is not None]
    reasons = [scores.rows[i].finish_reason for i in answered if scores.rows[i].finish_reason is not None]
    facts = system.facts

    def figure(name: str) -> dict[str, Any] | None:
        return _interval(system.per_item[name][chosen], clusters[chosen])

    def diversity(name: str) -> dict[str, Any] | None:
        values = [(number, value) for of, number, value in system.groups[name] if task in (None, of)]
        between = _interval(np.array([v for _, v in values]), np.array([n for n, _ in values]))
        within = figure(name)
        if between is None and within is None:
            return None
        return {**(between or {"mean": None, "ci95": None}), "within_input": within}

    measured = system.per_item["relevance"][chosen]
    return {
        "kind": facts.kind,
        "n": len(answered),
        "coverage": float(np.mean(~np.isnan(measured))),
        "failed": len(rows) - len(answered),
        "truncated": int(np.nansum(scores.columns["truncated"][answered])),
        "parameters": facts.parameters,
        "engine": facts.engine,
        "precision": facts.precision,
        **{name: figure(name) for name in ("relevance", "relevance_second")},
        "anchored_relevance": {
            ref: _anchored(system, systems[ref], systems[SHUFFLED], chosen, clusters)
            for ref in references
            if SHUFFLED in systems
        },
        "agreement": {ref: figure(f"agreement/{ref}") for ref in references},
        **{name: diversity(name) for name in ("distinct_2", "pairwise_distance")},
        **{name: figure(name) for name in ("copy_rate", "novelty", "length")},
        "stop_rate": sum(reason == "stop" for reason in reasons) / len(reasons) if reasons else None,
        "latency_ms": _latency(facts) if task is None else None,
        "tokens_per_second": facts.tokens_per_second if task is None else None,
    }


def _latency(facts: SystemFacts) -> dict[str, float] | None:
    return None if facts.latency_ms is None else dict(zip(("p50", "p95"), facts.latency_ms, strict=True))


def _interval(values: Floats, clusters: Any) -> dict[str, Any] | None:
    known = ~np.isnan(values)
    if not known.any():
        return None
    found = metrics.mean_interval(values[known], clusters[known])
    return {"mean": found.mean, "ci95": [found.lo, found.hi]}


def _anchored(system: System, reference: System, floor: System, chosen: Any, clusters: Any) -> dict[str, Any] | None:
    """(mean - mean of shuffled pairs) / (mean of the reference - mean of shuffled pairs), paired by item."""
    ours, theirs, base = (s.per_item["relevance"][chosen] for s in (system, reference, floor))
    known = ~np.isnan(ours + theirs + base)
    if not known.any() or np.mean(theirs[known]) <= np.mean(base[known]):
        return None
    found = metrics.ratio_interval((ours - base)[known], (theirs - base)[known], clusters[chosen][known])
    return {"mean": found.mean, "ci95": [found.lo, found.hi]}


def _mean_known(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
