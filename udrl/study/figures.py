"""What a cell measures of its student, and how the figures of several seeds become one.

A cell benchmarks its student on the run's own test inputs (`udrl.eval.bench`), one completion each; a row is one system
of that benchmark, such as ``student@top``. Figures are (mean, low, high): of one seed with the benchmark's 95 %
interval over inputs; of several, the mean of means, from the lowest low to the highest high, so that it holds both
kinds of spread and is wider than either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Figure = tuple[float, float, float]
"""A mean and its interval."""
FIGURES = ("relevance", "distinct_2", "pairwise_distance", "copy_rate", "novelty", "length")
TEACHER = "teacher"
SUITE = """\
schema: 1
name: study
title: A student of a study
description: The student on the run's own test inputs, beside its teacher.
inputs: {{split: test}}
limit: {limit}
samples: 1
systems: [student@matched, student@top, student@open, teacher]
following: {{inputs: {following}, seeds: 2, leakage_inputs: 0}}
latency_requests: 24
"""


def measured(run: Path, *, limit: int, following: int, seed: int) -> dict[str, Any]:
    """Benchmark the student of ``run`` on its test inputs; return the figures of its rows, and of its obedience.

    limit: inputs a task; following: of these, those on which command following is measured, by nine levels of each
    attribute twice.
    """
    from udrl.eval.bench import bench

    suite = run / "suite.yaml"
    suite.write_text(SUITE.format(limit=limit, following=following), encoding="utf-8")
    return of_summary(bench(run, suite=suite, seed=seed).summary)


def of_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rows``: figures by system, over all and by task; and ``obeys``: within-input Spearman by attribute."""
    rows = {name: _row(found) for name, found in summary["systems"].items()}
    for name, found in summary["systems"].items():
        rows[name]["tasks"] = {task: _row(part) for task, part in found["per_task"].items()}
    obeys: dict[str, Any] = {}
    for found in summary["command_following"].values():
        for attribute, values in found.items():
            tasks = {task: part["spearman_within_input"] for task, part in values["per_task"].items()}
            obeys[attribute] = {"spearman": values["spearman_within_input"], "error": values["error"],
                                "range": values["range"], "tasks": tasks}  # fmt: skip
    return {"rows": rows, "obeys": obeys}


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: _figure(found[name]) for name in FIGURES if found.get(name)}
    agreement = found.get("agreement", {}).get(TEACHER)
    if agreement:
        row["agreement"] = _figure(agreement)
    if found.get("latency_ms"):
        row["latency_ms"] = found["latency_ms"]["p50"]
    return row


def _figure(value: Mapping[str, Any]) -> Figure:
    return (value["mean"], value["ci95"][0], value["ci95"][1])


def over_seeds(figures: Iterable[Sequence[float]]) -> Figure | None:
    """Return the figures of several seeds as one: mean of means, lowest low, highest high; of none, None."""
    found = list(figures)
    if not found:
        return None
    means, lows, highs = zip(*found, strict=True)
    return sum(means) / len(means), min(lows), max(highs)


def mean(values: Iterable[float]) -> Figure | None:
    """Return numbers of several seeds as one figure: their mean, lowest and highest."""
    return over_seeds([(value, value, value) for value in values])


def shown(figure: Sequence[float] | None, digits: int = 3) -> str:
    """Return a figure for a table."""
    if figure is None:
        return "-"
    middle, low, high = (f"{value:.{digits}f}" for value in figure)
    return middle if low == high else f"{middle} [{low}, {high}]"
