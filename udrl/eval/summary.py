"""From scores to ``summary.json``: every figure of a benchmark with its interval, in the schema that programs read.

Means are over items, and every 95 % interval is a bootstrap clustered by input, paired where two systems are compared.

Beyond the names of docs/benchmark.md:

- ``n`` counts scored completions, ``coverage`` is the share of items with at least one, ``failed`` counts
  requests without a completion, ``unfinished`` completions that ended at the token limit, ``truncated``
  completions of which the encoder saw only the start.
- ``distinct_2`` and ``pairwise_distance``: ``mean`` and ``ci95`` are within task (between completions for
  different inputs, in groups so that they do not depend on how many inputs there are); ``within_input`` is
  between completions of one input, null where a system writes one.
- ``agreement`` of a reference with itself is between its own different completions: the ceiling.
- ``within_5_percent`` is true where the whole interval of the ratio lies above 0.95, not just its middle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from udrl.bootstrap import Intervals, mean_intervals, ratio_intervals
from udrl.data.finish import finish_of
from udrl.errors import RunError
from udrl.eval.completions import SystemFacts
from udrl.eval.figures import DIVERSITY, PLAIN, Group, Item, System, items_of, systems_of
from udrl.eval.parity import headline, parity_of
from udrl.eval.scores import Floats, Scores
from udrl.files import atomic_write

SCHEMA = 1
FILE = "summary.json"
SHUFFLED = "shuffled"

Figure = dict[str, Any] | None
"""``mean`` and ``ci95``, or None where there is nothing to compute."""


def build_summary(
    scores: Scores,
    facts: Sequence[SystemFacts],
    *,
    references: Sequence[str],
    about: Mapping[str, Any],
    command_following: Mapping[str, Any],
    judge: Mapping[str, Any] | None = None,
    votes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the whole of ``summary.json``.

    facts: the systems, in the order of the table; references: names of those that the others are compared
    with; about: suite, encoder, second_encoder, hardware and seed; command_following: student -> attribute
    -> figures; judge, votes: what an LLM judge and people prefer.
    """
    items = items_of(scores)
    systems = systems_of(scores, facts, items)
    tasks = list(dict.fromkeys(task for task, _ in items))
    refs = [name for name in references if name in systems]
    asked = {task: sum(task in (None, of) for of, _ in items) for task in (None, *tasks)}
    parts = {task: _figures(systems, items, refs, task) for task in asked}
    table: dict[str, Any] = {}
    for name, system in systems.items():
        entries = {task: _entry(scores, system, parts[task][name], task, asked[task]) for task in asked}
        table[name] = {**entries[None], "per_task": {task: entries[task] for task in tasks}}
    parity = parity_of({name: system.per_item for name, system in systems.items()}, refs, items, table)
    return {
        "schema": SCHEMA,
        **{key: about[key] for key in ("suite", "encoder", "second_encoder", "hardware", "seed")},
        "references": refs,
        "headline": headline(table, parity, refs),
        "systems": table,
        "parity": parity,
        "command_following": dict(command_following),
        "judge": None if judge is None else dict(judge),
        "votes": None if votes is None else dict(votes),
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


# -- figures with their intervals --------------------------------------------------------------------------


def _figures(
    systems: Mapping[str, System], items: Sequence[Item], references: Sequence[str], task: str | None
) -> dict[str, dict[str, Figure]]:
    """Return system -> name -> figure over all tasks (None) or one: all of them are computed together.

    Names are those of ``System.per_item``, and ``anchored/REF``, ``between/distinct_2`` and the like.
    """
    chosen = np.array([task is None or item[0] == task for item in items])
    clusters = np.array([item[1] for item in items])[chosen]
    keys: list[tuple[str, str]] = []
    tops: list[Floats] = []
    bottoms: list[Floats] = []
    ones = np.ones(int(chosen.sum()))
    for name, system in systems.items():
        for figure, values in system.per_item.items():
            keys.append((name, figure))
            tops.append(values[chosen])
            bottoms.append(ones)
        for ref in references if SHUFFLED in systems else ():
            ours, theirs, floor = (s.per_item["relevance"][chosen] for s in (system, systems[ref], systems[SHUFFLED]))
            known = ~np.isnan(ours + theirs + floor)
            # a reference that is no better than chance anchors nothing
            usable = known.any() and np.mean(theirs[known]) > np.mean(floor[known])
            keys.append((name, f"anchored/{ref}"))
            tops.append(ours - floor)
            bottoms.append(theirs - floor if usable else np.full_like(ours, np.nan))
    by_key = _by_key(keys, ratio_intervals(np.stack(tops, axis=1), np.stack(bottoms, axis=1), clusters))
    between, groups = _between(systems, task)
    if between:
        values = np.array([list(column) for column in between.values()]).T
        by_key |= _by_key(list(between), mean_intervals(values, [number for _, number, _ in groups]))
    return {name: {figure: value for (of, figure), value in by_key.items() if of == name} for name in systems}


def _between(systems: Mapping[str, System], task: str | None) -> tuple[dict[tuple[str, str], list[float]], list[Group]]:
    """Return the diversity of groups: (system, name) -> value of every group, NaN where it has no such one; and them.

    Groups of different tasks get different numbers.
    """
    every = dict.fromkeys(group for s in systems.values() for name in DIVERSITY for group in s.groups[name])
    groups = [group for group in every if task in (None, group[0])]
    numbers: dict[tuple[str, int], int] = {}
    labelled = [(of, numbers.setdefault((of, number), len(numbers)), sample) for of, number, sample in groups]
    if not groups:
        return {}, []
    columns = {
        (name, f"between/{figure}"): [system.groups[figure].get(group, np.nan) for group in groups]
        for name, system in systems.items()
        for figure in DIVERSITY
    }
    return columns, labelled


def _by_key(keys: Sequence[tuple[str, str]], intervals: Intervals) -> dict[tuple[str, str], Figure]:
    return {
        key: None if np.isnan(intervals.mean[k]) else intervals.named(k, "mean", "ci95") for k, key in enumerate(keys)
    }


# -- one system --------------------------------------------------------------------------------------------


def _entry(
    scores: Scores, system: System, figures: Mapping[str, Figure], task: str | None, asked: int
) -> dict[str, Any]:
    """The figures of one system over all tasks (None) or one, of which there are ``asked`` items."""
    rows = [i for i in system.rows if task is None or scores.rows[i].task == task]
    answered = [i for i in rows if scores.rows[i].completion is not None]
    reasons = [scores.rows[i].finish_reason for i in answered if scores.rows[i].finish_reason is not None]
    facts = system.facts

    def each(prefix: str) -> dict[str, Figure]:
        return {name.removeprefix(prefix): value for name, value in figures.items() if name.startswith(prefix)}

    return {
        "kind": facts.kind,
        "student": facts.student,
        "n": len(answered),
        "coverage": len({(scores.rows[i].task, scores.rows[i].input_id) for i in answered}) / asked,
        "failed": len(rows) - len(answered),
        "unfinished": reasons.count("length"),
        "truncated": int(np.nansum(scores.columns["truncated"][answered])),
        "unknown": int(np.nansum(scores.columns["unknown"][answered])),
        "parameters": facts.parameters,
        "engine": facts.engine,
        "precision": facts.precision,
        "batch_size": facts.batch_size,
        "cost_per_1000": None if facts.cost is None else dict(zip(("usd", "basis"), facts.cost, strict=True)),
        **{name: figures[name] for name in PLAIN},
        "anchored_relevance": each("anchored/"),
        "agreement": each("agreement/"),
        "rewards": each("reward/"),
        **{name: _diversity(figures, name) for name in DIVERSITY},
        "stop_rate": sum(finish_of(reason) == "finished" for reason in reasons) / len(reasons) if reasons else None,
        "latency_ms": _latency(facts) if task is None else None,
        "tokens_per_second": facts.tokens_per_second if task is None else None,
    }


def _diversity(figures: Mapping[str, Figure], name: str) -> dict[str, Any] | None:
    between, within = figures.get(f"between/{name}"), figures[name]
    if between is None and within is None:
        return None
    return {**(between or {"mean": None, "ci95": None}), "within_input": within}


def _latency(facts: SystemFacts) -> dict[str, float] | None:
    return None if facts.latency_ms is None else dict(zip(("p50", "p95"), facts.latency_ms, strict=True))
