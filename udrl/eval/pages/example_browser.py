"""The browser of examples: what every system wrote for an input, as data for the page's script.

A page may hold so much text and no more. A larger benchmark is sampled by a fixed rule, and the page says so.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from udrl.data.hashing import hash_int
from udrl.eval.pages.tables import role_of

MAX_CHARACTERS = 8_000_000
"""Of inputs and completions on one page; about as many bytes."""

MAX_TEXT = 20_000
"""Characters of one text."""

EXTREMES = 20
"""Inputs that are shown in any case: so many at each end of the leading system's relevance, and of its agreement."""

FEW = 10
"""So many systems' completions of one input are shown at once; of more, only those of two."""

_SCORES = (
    ("relevance", "relevance", 2),
    ("relevance_second", "second encoder", 2),
    ("length", "words", 0),
    ("copy_rate", "copy rate", 2),
    ("novelty", "novelty", 2),
)


@dataclass
class Example:
    """One input of one task with the first completion of every system: its row, and its scores by name."""

    task: str
    input_id: str
    input: str
    answers: dict[str, tuple[Mapping[str, Any], dict[str, float]]]

    def characters(self) -> int:
        """Return how much text it is."""
        rows = (row for row, _ in self.answers.values())
        return len(self.input) + sum(min(MAX_TEXT, len(row["completion"] or "")) for row in rows)


@dataclass(frozen=True)
class ExampleBrowser:
    """What the template needs: the section's ``lead``, and the ``data`` of its script, as JSON knows it."""

    lead: str
    data: Mapping[str, Any]


def examples_of(rows: Iterable[Mapping[str, Any]], *, reference: str | None) -> list[Example]:
    """Return the inputs of a comparison, in the order of the suite.

    rows: completions with their scores (columns of both Parquet files); reference: the one that agreement is with.
    """
    by_item: dict[tuple[str, str], Example] = {}
    for row in rows:
        if row["part"] != "comparison" or row["sample"]:
            continue
        example = by_item.setdefault(
            (row["task"], row["input_id"]), Example(row["task"], row["input_id"], row["input"], {})
        )
        scores = {name: row[key] for key, name, _ in _SCORES if row.get(key) is not None}
        agreement = (row.get("agreement") or {}).get(reference)
        if agreement is not None:
            scores["agreement"] = agreement
        scores |= {name: value for name, value in (row.get("rewards") or {}).items() if value is not None}
        example.answers[row["system"]] = (row, scores)
    return list(by_item.values())


def browser_of(
    examples: Sequence[Example],
    systems: Mapping[str, str],
    *,
    leading: str,
    other: str | None,
    order: str = "suite",
    show: str | None = None,
    note: str = "",
    budget: int = MAX_CHARACTERS,
) -> ExampleBrowser:
    """Return the section's lead and the data that its script shows.

    systems: name -> kind, in the order in which they stand below an input; leading, other: the systems that are looked
    at first, ``other`` beside ``leading``; order: in which the examples stand first, one of those in
    templates/example_browser.html; note: what else is to be said; budget: characters of text.
    """
    chosen = sampled(examples, leading, budget)
    names = list(systems)
    scores = [(name, digits) for _, name, digits in _SCORES] + [("agreement", 2)]
    known = dict.fromkeys(name for example in examples for _, scored in example.answers.values() for name in scored)
    scores = [(name, digits) for name, digits in scores if name in known]
    scores += [(name, 2) for name in known if name not in dict(scores)]
    data = {
        "systems": [{"name": name, "role": role_of(kind)} for name, kind in systems.items()],
        "scores": [{"name": name, "digits": digits} for name, digits in scores],
        "system": names.index(leading),
        "other": names.index(other) if other is not None else 0,
        "order": order,
        "show": show or ("all" if len(names) <= FEW or other is None else "two"),
        "examples": [_packed(example, names, [name for name, _ in scores]) for example in chosen],
    }
    said = ["What the systems wrote, one completion each.", note]
    if len(chosen) < len(examples):
        said.append(
            f"{len(chosen):,} of {len(examples):,} inputs are on this page, which holds up to "
            f"{budget / 1e6:g} million characters: the {EXTREMES} at each end of {leading}'s relevance and agreement, "
            "and others drawn evenly over the tasks. completions.parquet has all of them."
        )
    return ExampleBrowser(" ".join(filter(None, said)), data)


def sampled(examples: Sequence[Example], leading: str, budget: int) -> list[Example]:
    """Return as many examples as ``budget`` characters hold, in their order; at least one where there is one.

    First come those at the ends of the leading system's scores, then others drawn by a hash, from each task in turn.
    """
    if sum(example.characters() for example in examples) <= budget:
        return list(examples)
    ends: list[int] = []
    for name in ("relevance", "agreement"):
        scored = [
            (example.answers[leading][1][name], n)
            for n, example in enumerate(examples)
            if name in example.answers.get(leading, (None, {}))[1]
        ]
        ordered = [n for _, n in sorted(scored)]
        ends += [n for pair in zip(ordered[:EXTREMES], ordered[::-1][:EXTREMES], strict=True) for n in pair]
    by_task: dict[str, list[int]] = {}
    for n, example in enumerate(examples):
        by_task.setdefault(example.task, []).append(n)
    for task, numbers in by_task.items():
        numbers.sort(key=lambda n: hash_int("example", task, examples[n].input_id))
    drawn = [n for turn in itertools.zip_longest(*by_task.values()) for n in turn if n is not None]
    chosen: set[int] = set()
    left = budget
    for n in dict.fromkeys([*ends, *drawn]):
        left -= examples[n].characters()
        if left < 0 and chosen:
            break
        chosen.add(n)
    return [example for n, example in enumerate(examples) if n in chosen]


def _packed(example: Example, systems: Sequence[str], scores: Sequence[str]) -> dict[str, Any]:
    """An answer is [system, completion or null, error or null, commanded, [score or null, ...]]."""
    answers = []
    for number, name in enumerate(systems):
        if name not in example.answers:
            continue
        row, scored = example.answers[name]
        targets = json.loads(row["targets"])
        answers.append(
            [
                number,
                None if row["completion"] is None else _clipped(row["completion"]),
                row["error"],
                ", ".join(f"{target} {value:.3g}" for target, value in targets.items()),
                [round(scored[score], 3) if score in scored else None for score in scores],
            ]
        )
    return {"task": example.task, "input": _clipped(example.input), "answers": answers}


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} […]"
