"""From scores to figures by item: what intervals are computed of.

The unit is the item: one input of one task. A system's figure for an item is the mean over its completions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from udrl import metrics
from udrl.data.hashing import hash_int
from udrl.eval.completions import SystemFacts
from udrl.eval.scores import Floats, Scores

Item = tuple[str, str]
"""(task, input_id)."""
PerItem = Mapping[str, Floats]
"""Name of a figure -> its value for every item, NaN where nothing was scored."""
Group = tuple[str, int, int]
"""(task, number of the group within the task, sample): completions for different inputs, one each."""

GROUP = 10
"""Completions for different inputs among which diversity within a task is measured."""
DIVERSITY = ("distinct_2", "pairwise_distance")
PLAIN = ("relevance", "relevance_second", "copy_rate", "novelty", "length")


@dataclass(frozen=True)
class System:
    """One system's figures by item, aligned with the list of items (NaN: nothing scored there).

    per_item: name -> (items,), with agreement as ``agreement/REF``, further rewards as ``reward/NAME``, and the
    diversity within an input among them; groups: name -> group -> value, for diversity within tasks; rows: the places
    of its completions among the scores'.
    """

    facts: SystemFacts
    per_item: PerItem
    groups: Mapping[str, Mapping[Group, float]]
    rows: tuple[int, ...]


def items_of(scores: Scores) -> list[Item]:
    """Return the items that systems are compared on, in their order."""
    return list(dict.fromkeys((row.task, row.input_id) for row in scores.rows if row.part == "comparison"))


def systems_of(scores: Scores, facts: Sequence[SystemFacts], items: Sequence[Item]) -> dict[str, System]:
    """Return the figures of every system of ``facts``, by name."""
    rows: dict[str, list[int]] = {fact.name: [] for fact in facts}
    for i, row in enumerate(scores.rows):
        if row.part == "comparison" and row.system in rows:
            rows[row.system].append(i)
    position = {item: n for n, item in enumerate(items)}
    columns = {name: scores.columns[name] for name in PLAIN}
    columns |= {f"agreement/{ref}": values for ref, values in scores.agreement.items()}
    columns |= {f"reward/{name}": values for name, values in scores.rewards.items()}
    return {fact.name: _system(scores, fact, items, position, rows[fact.name], columns) for fact in facts}


def _system(
    scores: Scores,
    facts: SystemFacts,
    items: Sequence[Item],
    position: Mapping[Item, int],
    rows: Sequence[int],
    columns: Mapping[str, Floats],
) -> System:
    of_item: dict[int, list[int]] = {}
    for i in rows:
        if scores.rows[i].completion is not None:
            of_item.setdefault(position[scores.rows[i].task, scores.rows[i].input_id], []).append(i)
    per_item = {name: np.full(len(items), np.nan) for name in (*columns, *DIVERSITY)}
    for n, answers in of_item.items():
        for name, values in columns.items():
            per_item[name][n] = values[answers[0]] if len(answers) == 1 else _mean_known(values[answers])
        if len(answers) > 1:
            per_item["distinct_2"][n] = metrics.distinct_n([scores.rows[i].completion or "" for i in answers], 2)
            per_item["pairwise_distance"][n] = metrics.pairwise_distance(scores.vectors[answers])
    return System(facts, per_item, _groups(scores, items, of_item), tuple(rows))


def _groups(
    scores: Scores, items: Sequence[Item], of_item: Mapping[int, Sequence[int]]
) -> dict[str, dict[Group, float]]:
    """Diversity within tasks: items in a fixed random order, cut into groups of GROUP, one completion an item.

    Each group is measured once a sample.
    """
    groups: dict[str, dict[Group, float]] = {name: {} for name in DIVERSITY}
    for task in dict.fromkeys(task for task, _ in items):
        numbers = [n for n, item in enumerate(items) if item[0] == task and n in of_item]
        numbers.sort(key=lambda n: hash_int("group", *items[n]))
        size = min(GROUP, len(numbers))
        for number, start in enumerate(range(0, len(numbers) - size + 1, size) if size > 1 else ()):
            members = [of_item[n] for n in numbers[start : start + size]]
            for sample in range(max(map(len, members))):
                chosen = [rows[sample % len(rows)] for rows in members]
                texts = [scores.rows[i].completion or "" for i in chosen]
                groups["distinct_2"][task, number, sample] = metrics.distinct_n(texts, 2)
                groups["pairwise_distance"][task, number, sample] = metrics.pairwise_distance(scores.vectors[chosen])
    return groups


def _mean_known(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
