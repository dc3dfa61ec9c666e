"""Parity of one system with a reference: the ratio of their relevance, and what speaks against it.

Ratios are of means over items that both answered, with a paired bootstrap clustered by input; so are the lengths and
copy rates that are held against them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from udrl.bootstrap import length_controlled, ratio_intervals
from udrl.eval.figures import Item, PerItem
from udrl.eval.scores import Floats

PARITY = 0.95
COPY_MARGIN = 0.05
LENGTH_MARGIN = 0.10
DIVERSITY_MARGIN = 0.05
HALF_READ = 0.05
"""Share of completions of which the encoder saw only the start, above which that speaks against a comparison."""
STOP_RATE = 0.98
FEW_ITEMS = 30
"""Fewer items than this are told of: a bootstrap interval of so few is too narrow."""
HOPELESS = 100_000
"""From so many inputs needed on, no larger benchmark will tell: the ratio lies at PARITY itself."""
NORMAL = 1.96
"""Standard deviations of a mean on either side of it that a 95 % interval takes."""

Pair = tuple[str, str]
"""(system, reference)."""


def parity_of(
    systems: Mapping[str, PerItem], references: Sequence[str], items: Sequence[Item], table: Mapping[str, Any]
) -> dict[str, Any]:
    """Return system -> reference -> its parity, over all tasks and, as ``per_task``, for each.

    systems: figures by item; table: ``systems`` of summary.json.
    """
    pairs = [(name, ref) for name in systems for ref in references if ref != name]
    tasks = list(dict.fromkeys(task for task, _ in items))
    parts = {task: ratios(systems, pairs, items, task) for task in (None, *tasks)}
    parity: dict[str, Any] = {}
    for name, ref in pairs:
        shared = {task: _on_shared(systems[name], systems[ref], items, task) for task in parts}
        judged = {}
        for task in parts:
            ours, theirs = (table[one] if task is None else table[one]["per_task"][task] for one in (name, ref))
            mine, yours = shared[task]
            judged[task] = _judged({**ours, **mine}, {**theirs, **yours}, parts[task][name, ref], ref)
        off = [task for task in tasks if lengths_differ(*shared[task])]
        whole = judged.pop(None)
        if off and whole["equal_length"]:
            whole["caveats"].append(f"lengths differ by more than 10 % in {', '.join(off)}")
        parity.setdefault(name, {})[ref] = {**whole, "per_task": judged}
    return parity


def _on_shared(
    ours: PerItem, theirs: PerItem, items: Sequence[Item], task: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the mean length and copy rate of both systems over the items that both answered, as the ratio is."""
    both = ~np.isnan(ours["relevance"] + theirs["relevance"]) & [task is None or of == task for of, _ in items]

    def means(system: PerItem) -> dict[str, Any]:
        of = {figure: system[figure][both] for figure in ("length", "copy_rate")}
        return {figure: {"mean": float(np.nanmean(v))} if (~np.isnan(v)).any() else None for figure, v in of.items()}

    return means(ours), means(theirs)


def ratios(
    systems: Mapping[str, PerItem], pairs: Sequence[Pair], items: Sequence[Item], task: str | None = None
) -> dict[Pair, dict[str, Any]]:
    """Return every pair's ratio, win rates, their intervals and ``within_5_percent``, over all tasks (None) or one.

    They are computed together; null throughout where no item was answered by both.
    """
    if not pairs:
        return {}
    chosen = np.array([task is None or item[0] == task for item in items])
    clusters = np.array([item[1] for item in items])[chosen]

    def columns(figure: str, side: int) -> Floats:
        stacked: Floats = np.stack([systems[pair[side]][figure][chosen] for pair in pairs], axis=1)
        return stacked

    ours, theirs = columns("relevance", 0), columns("relevance", 1)
    known = ~np.isnan(ours + theirs)
    # A reference that is never relevant has no share that could be reached.
    theirs[:, ~(np.where(known, theirs, 0.0).sum(axis=0) > 0)] = np.nan
    wins = (np.sign(ours - theirs) + 1) / 2
    longer = columns("length", 0) - columns("length", 1)
    second = columns("relevance_second", 0), columns("relevance_second", 1)
    intervals = ratio_intervals(
        np.hstack([ours, wins, second[0]]), np.hstack([theirs, np.ones_like(wins), second[1]]), clusters
    )
    controlled = length_controlled(wins, longer, clusters)
    n = len(pairs)
    return {
        pair: {
            **intervals.named(k, "ratio", "ci95"),
            **intervals.named(n + k, "win_rate", "win_rate_ci95"),
            **controlled.named(k, "length_controlled_win_rate", "length_controlled_win_rate_ci95"),
            "within_5_percent": bool(intervals.lo[k] >= PARITY),
            "items": int(intervals.items[k]),
            "spread": spread(float(intervals.mean[k]), float(intervals.lo[k]), int(intervals.items[k])),
            "items_needed": items_needed(float(intervals.mean[k]), float(intervals.lo[k]), int(intervals.items[k])),
            "second": None if np.isnan(intervals.mean[2 * n + k]) else intervals.named(2 * n + k, "ratio", "ci95"),
        }
        for k, pair in enumerate(pairs)
    }


def _judged(ours: Mapping[str, Any], theirs: Mapping[str, Any], ratio: Mapping[str, Any], ref: str) -> dict[str, Any]:
    equal = bool(ours["length"] and theirs["length"]) and not lengths_differ(ours, theirs)
    return {**ratio, "equal_length": equal, "caveats": _caveats(ours, theirs, ratio, ref)}


def _caveats(ours: Mapping[str, Any], theirs: Mapping[str, Any], ratio: Mapping[str, Any], ref: str) -> list[str]:
    """What speaks against the ratio, or for caution with it: one plain sentence each."""
    caveats: list[str] = []
    if ratio["ratio"] is None:
        return ["no input was answered by both"]
    if lengths_differ(ours, theirs):
        caveats.append(
            f"lengths differ: {ours['length']['mean']:.1f} words against {theirs['length']['mean']:.1f}; "
            "shorter completions look more relevant"
        )
    rates = ours["copy_rate"], theirs["copy_rate"]
    if all(rates) and rates[0]["mean"] > rates[1]["mean"] + COPY_MARGIN:
        caveats.append(f"it copies more of the input: copy rate {rates[0]['mean']:.2f} against {rates[1]['mean']:.2f}")
    second = ratio["second"]
    if second is not None and (second["ci95"][0] >= PARITY) != ratio["within_5_percent"]:
        caveats.append(
            f"the second encoder disagrees: ratio {second['ratio']:.2f} "
            f"[{second['ci95'][0]:.2f}, {second['ci95'][1]:.2f}]"
        )
    caveats += _diversity_caveat(ours, theirs)
    if (needed := ratio["items_needed"]) is not None:
        caveats.append(
            "more inputs will not show it: the ratio is at the limit"
            if needed >= HOPELESS
            else f"too few inputs to say that it is within 5 %: at the spread measured here ({ratio['spread']:.2f}) "
            f"about {needed:,} would be needed, there are {ratio['items']:,}"
        )
    if ratio["items"] < FEW_ITEMS:
        few = "is only 1 input" if ratio["items"] == 1 else f"are only {ratio['items']} inputs"
        caveats.append(f"there {few}, and intervals of so few are too narrow")
    caveats += _completeness(ours, "it") + _completeness(theirs, ref)
    return caveats


def spread(ratio: float, low: float, items: int) -> float | None:
    """Return how much a ratio scatters from item to item, as a standard deviation, from its 95 % interval's lower half.

    None where there is no ratio. Completions of one input count together, so more of them make it smaller.
    """
    return None if math.isnan(ratio) else (ratio - low) * math.sqrt(items) / NORMAL


def items_needed(ratio: float, low: float, items: int) -> int | None:
    """Return about how many items would put the whole interval above PARITY; None where it is, or its
    middle is not.

    The half-width of a mean's interval falls with the root of the number of items, at the `spread` measured here.
    """
    if not low < PARITY < ratio:
        return None
    return math.ceil(items * ((ratio - low) / (ratio - PARITY)) ** 2)


def headline(table: Mapping[str, Any], parity: Mapping[str, Any], references: Sequence[str]) -> dict[str, list[str]]:
    """Return for each reference one row of every student that it is fairest to compare with, the best ratio first.

    That is the row matched to this reference in length; else the one matched to another, the open one, any.
    """
    students: dict[str, list[str]] = {}
    for name, system in table.items():
        if system["student"] is not None:
            students.setdefault(system["student"], []).append(name)
    fairest: dict[str, list[str]] = {}
    for ref in references:
        rows = [_fairest(names, ref) for names in students.values()]
        fairest[ref] = sorted(rows, key=lambda name: -(parity[name][ref]["ratio"] or 0.0))
    return fairest


def _fairest(rows: Sequence[str], ref: str) -> str:
    for wanted in (f"@matched-{ref}", "@matched", "@open", ""):
        for name in rows:
            if name.endswith(wanted):
                return name
    raise AssertionError("every name ends with nothing")


def _diversity_caveat(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    a, b = ours["distinct_2"], theirs["distinct_2"]
    if a and b and a["mean"] is not None and b["mean"] is not None and a["mean"] < b["mean"] - DIVERSITY_MARGIN:
        return [f"it is less diverse: distinct-2 {a['mean']:.2f} against {b['mean']:.2f}"]
    return []


def _completeness(entry: Mapping[str, Any], who: str) -> list[str]:
    sentences = []
    if entry["coverage"] < 1:
        sentences.append(f"{who} answered {100 * entry['coverage']:.0f} % of the inputs")
    if entry["failed"]:
        sentences.append(f"{who} failed {entry['failed']} times")
    if entry["stop_rate"] is not None and entry["stop_rate"] < STOP_RATE:
        sentences.append(f"{who} ended by itself in only {100 * entry['stop_rate']:.0f} % of the completions")
    if entry["truncated"] > HALF_READ * entry["n"]:
        share = 100 * entry["truncated"] / entry["n"]
        sentences.append(f"the encoder saw only the start of {share:.0f} % of the completions of {who}")
    if entry.get("unknown"):  # earlier benchmarks did not count them
        sentences.append(f"{entry['unknown']:,} completions of {who} are in a script that the encoder does not know")
    return sentences


def lengths_differ(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Say whether the mean lengths of two systems' figures are more than LENGTH_MARGIN apart."""
    if not ours["length"] or not theirs["length"] or not theirs["length"]["mean"]:
        return False
    return bool(abs(ours["length"]["mean"] / theirs["length"]["mean"] - 1) > LENGTH_MARGIN)
