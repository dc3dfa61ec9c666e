"""Parity of one system with a reference: the ratio of their relevance, and what speaks against it.

Ratios are of means over items that both answered, with a paired bootstrap clustered by input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from udrl import metrics
from udrl.eval.scores import Floats

Item = tuple[str, str]
"""(task, input_id)."""
PerItem = Mapping[str, Floats]
"""Name of a figure -> its value for every item, NaN where nothing was scored."""
PARITY = 0.95
COPY_MARGIN = 0.05
LENGTH_MARGIN = 0.10
DIVERSITY_MARGIN = 0.05
STOP_RATE = 0.98


def parity_of(
    name: str, ref: str, systems: Mapping[str, PerItem], items: Sequence[Item], table: Mapping[str, Any]
) -> dict[str, Any]:
    tasks = list(dict.fromkeys(task for task, _ in items))
    whole = ratio_of(systems[name], systems[ref], items, None)
    per_task = {}
    for task in tasks:
        part = ratio_of(systems[name], systems[ref], items, task)
        caveats = _caveats(
            table[name]["per_task"][task], table[ref]["per_task"][task], part, systems, name, ref, items, task
        )
        per_task[task] = {**part, "caveats": caveats}
    caveats = _caveats(table[name], table[ref], whole, systems, name, ref, items, None)
    if not lengths_differ(table[name], table[ref]):
        parts = [(task, table[name]["per_task"][task], table[ref]["per_task"][task]) for task in tasks]
        off = [task for task, ours, theirs in parts if lengths_differ(ours, theirs)]
        if off:
            caveats.append(f"lengths differ by more than 10 % in {', '.join(off)}")
    return {**whole, "caveats": caveats, "per_task": per_task}


def ratio_of(
    ours: PerItem, theirs: PerItem, items: Sequence[Item], task: str | None = None, column: str = "relevance"
) -> dict[str, Any]:
    """Return ratio, win rate, their intervals and ``within_5_percent``, over all tasks (None) or one.

    ours, theirs: two systems' figures by item; null throughout where no item was answered by both.
    """
    chosen = np.array([task is None or item[0] == task for item in items])
    a, b = ours[column][chosen], theirs[column][chosen]
    known = ~np.isnan(a + b)
    clusters = np.array([item[1] for item in items])[chosen][known]
    if not known.any() or not np.mean(b[known]) > 0:
        nothing = {"ratio": None, "ci95": None, "win_rate": None, "win_rate_ci95": None}
        return {**nothing, "within_5_percent": False}
    ratio = metrics.ratio_interval(a[known], b[known], clusters)
    wins = metrics.win_rate_interval(a[known], b[known], clusters)
    return {
        "ratio": ratio.mean,
        "ci95": [ratio.lo, ratio.hi],
        "win_rate": wins.mean,
        "win_rate_ci95": [wins.lo, wins.hi],
        "within_5_percent": bool(ratio.lo >= PARITY),
    }


def _caveats(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    ratio: Mapping[str, Any],
    systems: Mapping[str, PerItem],
    name: str,
    ref: str,
    items: Sequence[Item],
    task: str | None,
) -> list[str]:
    """What speaks against the ratio, or for caution with it: one plain sentence each."""
    found: list[str] = []
    if ratio["ratio"] is None:
        return ["no input was answered by both"]
    if lengths_differ(ours, theirs):
        found.append(
            f"lengths differ: {ours['length']['mean']:.1f} words against {theirs['length']['mean']:.1f}; "
            "shorter completions look more relevant"
        )
    if ours["copy_rate"]["mean"] > theirs["copy_rate"]["mean"] + COPY_MARGIN:
        found.append(
            f"it copies more of the input: copy rate {ours['copy_rate']['mean']:.2f} "
            f"against {theirs['copy_rate']['mean']:.2f}"
        )
    second = ratio_of(systems[name], systems[ref], items, task, "relevance_second")
    if second["ratio"] is not None and second["within_5_percent"] != ratio["within_5_percent"]:
        found.append(
            f"the second encoder disagrees: ratio {second['ratio']:.2f} "
            f"[{second['ci95'][0]:.2f}, {second['ci95'][1]:.2f}]"
        )
    found += _diversity_caveat(ours, theirs)
    needed = items_needed(ratio["ratio"], ratio["ci95"][0], _count(items, task))
    if needed is not None:
        found.append(f"too few inputs to say that it is within 5 %: about {needed} would be needed")
    found += _completeness(ours, "it") + _completeness(theirs, ref)
    return found


def items_needed(ratio: float, low: float, items: int) -> int | None:
    """Return about how many items would put the whole interval above PARITY; None where it is, or its
    middle is not.

    The half-width of a mean's interval falls with the root of the number of items.
    """
    if not low < PARITY < ratio:
        return None
    return math.ceil(items * ((ratio - low) / (ratio - PARITY)) ** 2)


def _diversity_caveat(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    a, b = ours["distinct_2"], theirs["distinct_2"]
    if a and b and a["mean"] is not None and b["mean"] is not None and a["mean"] < b["mean"] - DIVERSITY_MARGIN:
        return [f"it is less diverse: distinct-2 {a['mean']:.2f} against {b['mean']:.2f}"]
    return []


def _completeness(entry: Mapping[str, Any], who: str) -> list[str]:
    found = []
    if entry["coverage"] < 1:
        found.append(f"{who} answered {100 * entry['coverage']:.0f} % of the inputs")
    if entry["failed"]:
        found.append(f"{who} failed {entry['failed']} times")
    if entry["stop_rate"] is not None and entry["stop_rate"] < STOP_RATE:
        found.append(f"{who} ended by itself in only {100 * entry['stop_rate']:.0f} % of the completions")
    if entry["truncated"]:
        found.append(f"the encoder saw only the start of {entry['truncated']} of the completions of {who}")
    return found


def lengths_differ(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Say whether the mean lengths of two systems' figures are more than LENGTH_MARGIN apart."""
    if not ours["length"] or not theirs["length"] or not theirs["length"]["mean"]:
        return False
    return bool(abs(ours["length"]["mean"] / theirs["length"]["mean"] - 1) > LENGTH_MARGIN)


def _count(items: Iterable[Item], task: str | None) -> int:
    return sum(task is None or item[0] == task for item in items)
