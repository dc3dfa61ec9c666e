"""What a cell measures of its student, and how the figures of several seeds become one.

A cell benchmarks its student on the run's own test inputs (`udrl.eval.bench`), one completion each; a row is one system
of that benchmark, such as ``student@top``. Figures are (mean, low, high): of one seed with the benchmark's 95 %
interval over inputs; of several, the mean of means, from the lowest low to the highest high, so that it holds both
kinds of spread and is wider than either. Two conditions are compared by `gain`: input by input, seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udrl.metrics import mean_interval

Floats = npt.NDArray[np.float64]
Items = Mapping[str, Mapping[str, float]]
"""Task -> input_id -> value."""
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
    """Benchmark the student of ``run`` on its test inputs; return the figures of its rows, and of its obedience, and
    what they are made of (`items_of`).

    limit: inputs a task; following: of these, those on which command following is measured, by nine levels of each
    attribute twice.
    """
    from udrl.eval.bench import bench

    suite = run / "suite.yaml"
    suite.write_text(SUITE.format(limit=limit, following=following), encoding="utf-8")
    report = bench(run, suite=suite, seed=seed)
    return {**of_summary(report.summary), "items": items_of(report.folder)}


def of_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rows``: figures by system, over all and by task; and ``obeys``: within-input Spearman by attribute."""
    rows = {name: _row(system) for name, system in summary["systems"].items()}
    for name, system in summary["systems"].items():
        rows[name]["tasks"] = {task: _row(part) for task, part in system["per_task"].items()}
    obeys: dict[str, Any] = {}
    for attributes in summary["command_following"].values():
        for attribute, values in attributes.items():
            tasks = {task: part["spearman_within_input"] for task, part in values["per_task"].items()}
            obeys[attribute] = {"spearman": values["spearman_within_input"], "error": values["error"],
                                "range": values["range"], "tasks": tasks}  # fmt: skip
    return {"rows": rows, "obeys": obeys}


def items_of(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return from a benchmark's folder, by input (`Items`): the relevance of each of the student's rows, and within-
    input Spearman of each attribute, as "relevance followed"."""
    from udrl.eval.benchmark_files import read_benchmark
    from udrl.eval.compare import Figures, obedience

    _, rows, _ = read_benchmark(folder)
    figures: Figures = {}
    for row in rows:
        if row["part"] == "comparison" and row["system"] != TEACHER and row["relevance"] is not None:
            figures.setdefault(row["system"], {})[row["task"], row["input_id"]] = row["relevance"]
    for name, values in obedience(rows, set()).items():
        kind, _, attribute = name.partition(", ")
        if kind == "rank correlation":
            figures[f"{attribute} followed"] = values
    items: dict[str, dict[str, dict[str, float]]] = {}
    for name, values in figures.items():
        for (task, one), value in values.items():
            items.setdefault(name, {}).setdefault(task, {})[one] = value
    return items


def _row(system: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: _figure(system[name]) for name in FIGURES if system.get(name)}
    agreement = system.get("agreement", {}).get(TEACHER)
    if agreement:
        row["agreement"] = _figure(agreement)
    if system.get("latency_ms"):
        row["latency_ms"] = system["latency_ms"]["p50"]
    return row


def _figure(value: Mapping[str, Any]) -> Figure:
    return (value["mean"], value["ci95"][0], value["ci95"][1])


def over_seeds(figures: Iterable[Sequence[float]]) -> Figure | None:
    """Return the figures of several seeds as one: mean of means, lowest low, highest high; of none, None."""
    intervals = list(figures)
    if not intervals:
        return None
    means, lows, highs = zip(*intervals, strict=True)
    return sum(means) / len(means), min(lows), max(highs)


def by_input(items: Items, task: str | None = None) -> dict[str, float]:
    """Return one value an input, the mean over the tasks that have it; task: of this one alone."""
    by_id: dict[str, list[float]] = {}
    for name, values in items.items():
        for one, value in values.items() if task in (None, name) else ():
            by_id.setdefault(one, []).append(value)
    return {one: sum(values) / len(values) for one, values in by_id.items()}


def over_inputs(seeds: Iterable[Items], task: str | None = None) -> Figure | None:
    """Return what several seeds measured input by input as one figure, see `over_seeds`."""
    by_seed = [list(by_input(items, task).values()) for items in seeds]
    return over_seeds(mean_interval(values) for values in by_seed if values)


def gain(ours: Sequence[Items], theirs: Sequence[Items], task: str | None = None) -> Figure | None:
    """Return by how much the first condition is above the second, (mean, low, high), both by seed in the same order.

    Only inputs (of ``task``, if named) that every seed of both was measured on count; without any, None.
    """
    columns = [by_input(items, task) for items in (*ours, *theirs)]
    both = sorted(set.intersection(*map(set, columns)))
    if not both:
        return None
    values = np.array([[column[one] for one in both] for column in columns], dtype=np.float64)
    return crossed_interval(values[: len(ours)] - values[len(ours) :])


def crossed_interval(values: Floats) -> Figure:
    """Return the mean of ``values`` (seeds, items), all items under every seed, with its 95 % interval.

    Seeds and items are both taken for draws: the squared standard errors over seeds and over items are added (which
    counts the noise of single values twice, to the safe side), with Student's t of the degrees of freedom that
    Satterthwaite (1946) gives the sum. With one seed, over items alone.
    """
    from scipy.special import stdtrit

    seeds, items = values.shape
    mean = float(values.mean())
    parts = [
        (float(means.var(ddof=1)) / count, count - 1)
        for means, count in ((values.mean(axis=1), seeds), (values.mean(axis=0), items))
        if count > 1
    ]
    total = sum(part for part, _ in parts)
    if total <= 0:
        return mean, mean, mean
    freedom = total**2 / sum(part**2 / free for part, free in parts)
    half = float(stdtrit(freedom, 0.975)) * total**0.5
    return mean, mean - half, mean + half


def mean(values: Iterable[float]) -> Figure | None:
    """Return numbers of several seeds as one figure: their mean, lowest and highest."""
    return over_seeds([(value, value, value) for value in values])


def shown(figure: Sequence[float] | None, digits: int = 3, *, signed: bool = False) -> str:
    """Return a figure for a table; signed: as a difference."""
    if figure is None:
        return "-"
    middle, low, high = (f"{value:{'+' if signed else ''}.{digits}f}" for value in figure)
    return middle if low == high else f"{middle} [{low}, {high}]"
